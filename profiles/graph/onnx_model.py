"""An .onnx file as a protobuf, or a sentence that says why it is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mnv4_deploy.errors import ModelFileError


def load_onnx(onnx: Any, path: Path, *, weights: bool = False) -> Any:
    """The ``onnx.ModelProto`` of ``path``; ``weights``: with those that lie beside the file.

    Raises ModelFileError for anything that is not a whole model.
    """
    try:
        model = onnx.load(str(path), load_external_data=weights)
        if model.ir_version < 1 or not model.graph.output:
            raise ValueError("no graph")
    except Exception as error:  # protobuf's and onnx's exceptions share no base
        raise ModelFileError(
            f"{path} is neither a whole ONNX model nor a TFLite model: give a complete .onnx or"
            " .tflite file."
        ) from error
    return model
