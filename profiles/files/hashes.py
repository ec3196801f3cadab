"""Hashes of files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mnv4_deploy.errors import ModelFileError
from mnv4_deploy.profiles.files.regular import open_regular, pieces


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal; ModelFileError for one that cannot be read."""
    digest = hashlib.sha256()
    try:
        with open_regular(path) as file:
            for piece in pieces(file):
                digest.update(piece)
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read ({error.strerror or error}).") from error
    return digest.hexdigest()
