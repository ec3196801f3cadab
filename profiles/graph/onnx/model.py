"""An .onnx file as a protobuf, or a sentence that says why it is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mnv4_deploy.errors import ModelFileError, missing_library
from mnv4_deploy.profiles.files.regular import read_regular
from mnv4_deploy.profiles.graph.onnx.checks import DamagedError, check_model
from mnv4_deploy.profiles.graph.onnx.external_weights import load_weights

_MAX_BYTES = (1 << 31) - 1  # protobuf's limit


def import_onnx() -> Any:
    """The onnx module. Raises MissingLibraryError where it is not installed."""
    try:
        import onnx
    except ImportError as error:
        raise missing_library("Reading an .onnx file needs onnx", "onnx") from error
    return onnx


def load_onnx(onnx: Any, path: Path, *, weights: bool = False) -> Any:
    """The ``onnx.ModelProto`` of ``path``; ``weights``: with those that lie beside the file.

    Raises ModelFileError for anything that is not a whole model, and for one with what no reader
    of it should have to expect (see ``onnx_checks``).
    """
    try:
        model = onnx.load_from_string(read_regular(path, max_bytes=_MAX_BYTES))
        if model.ir_version < 1 or not model.graph.output:
            raise ValueError("no graph")
    except OSError as error:
        raise ModelFileError(
            f"{path} cannot be read ({error.strerror or error}): give an .onnx file."
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # protobuf's and onnx's exceptions share no base
        raise ModelFileError(
            f"{path} is neither a whole ONNX model nor a TFLite model: give a complete .onnx or"
            " .tflite file."
        ) from error
    try:
        check_model(model)
    except DamagedError as error:
        raise ModelFileError(f"{path} {error}.") from error
    if weights:
        load_weights(path, model)
    return model
