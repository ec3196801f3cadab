"""Hashes of files that are ours, or that the user named to be read whole.

Model files, which may be anything, have ``profiles/files/hashes.py``; it also runs on devices.
"""

from __future__ import annotations

import hashlib
from pathlib import Path


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes; OSError for one that cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
