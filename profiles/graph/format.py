"""The format of a model file, by its content."""

from __future__ import annotations

from pathlib import Path

from mnv4_deploy.errors import ModelFileError
from mnv4_deploy.profiles.files.regular import open_regular
from mnv4_deploy.profiles.records.graph import Format

_TFLITE_MAGIC = b"TFL3"
_MAGIC_OFFSET = 4
_HEAD_BYTES = 8


def looks_like_tflite(head: bytes) -> bool:
    """Whether the first 8 bytes of a file carry TFLite's file identifier."""
    return head[_MAGIC_OFFSET : _MAGIC_OFFSET + len(_TFLITE_MAGIC)] == _TFLITE_MAGIC


def format_of(path: str | Path) -> Format:
    """The format of a model file, by its content; what is not TFLite passes for ONNX.

    Raises ModelFileError where there is no file, or nothing in it.
    """
    file = Path(path)
    try:
        if not file.exists():
            raise ModelFileError(f"{file} does not exist: give a .tflite or .onnx file.")
        if not file.is_file():
            raise ModelFileError(f"{file} is not a file: give a .tflite or .onnx file.")
        with open_regular(file) as stream:
            head = stream.read(_HEAD_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelFileError(
            f"{file} cannot be read ({reason}): give a .tflite or .onnx file."
        ) from error
    if not head:
        raise ModelFileError(f"{file} is empty: give a .tflite or .onnx file.")
    return "tflite" if looks_like_tflite(head) else "onnx"
