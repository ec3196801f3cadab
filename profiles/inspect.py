"""What is in a .tflite or .onnx file, ours or anybody's."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import cast

from mnv4_deploy.errors import ModelFileError
from mnv4_deploy.profiles.isolated import DEFAULT_TIMEOUT_S, run_isolated
from mnv4_deploy.profiles.tflite_graph import looks_like_tflite
from mnv4_deploy.records import FileFacts

_HEAD_BYTES = 8
_CHUNK_BYTES = 1 << 20
_PACKAGE = "mnv4_deploy.profiles"


def inspect_file(path: str | Path, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> FileFacts:
    """The facts of a model file; its content decides the format, not its name.

    Parsing and running happen in a child process, because native runtimes crash on damaged
    files. Raises ModelFileError for anything that is not a whole model, ToolchainError where
    the packages for its format are missing.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise ModelFileError(f"{path} does not exist: give a .tflite or .onnx file.")
        if not path.is_file():
            raise ModelFileError(f"{path} is not a file: give a .tflite or .onnx file.")
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path} cannot be read ({error}).") from error
    if not head:
        raise ModelFileError(f"{path} is empty: give a .tflite or .onnx file.")
    module = "inspect_tflite" if looks_like_tflite(head) else "inspect_onnx"
    function = f"{_PACKAGE}.{module}:inspect_here"
    facts = run_isolated(function, str(path), timeout_s=timeout_s, subject=str(path))
    return cast(FileFacts, facts)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
