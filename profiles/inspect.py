"""What is in a .tflite or .onnx file, ours or anybody's."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import cast

from mnv4_deploy.errors import ModelFileError
from mnv4_deploy.profiles.isolated import DEFAULT_TIMEOUT_S, run_isolated
from mnv4_deploy.profiles.measure.runners import format_of
from mnv4_deploy.profiles.regular_file import open_regular, pieces
from mnv4_deploy.records import FileFacts

_PACKAGE = "mnv4_deploy.profiles"


def inspect_file(path: str | Path, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> FileFacts:
    """The facts of a model file; its content decides the format, not its name.

    Parsing and running happen in a child process, because native runtimes crash on damaged
    files. Raises ModelFileError for anything that is not a whole model, ToolchainError where
    the packages for its format are missing.
    """
    module = f"inspect_{format_of(path)}"
    function = f"{_PACKAGE}.{module}:inspect_here"
    facts = run_isolated(function, str(path), timeout_s=timeout_s, subject=str(path))
    return cast(FileFacts, facts)


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
