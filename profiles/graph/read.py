"""Reads the graph of a model file, whatever its format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mnv4_deploy.errors import ModelFileError
from mnv4_deploy.profiles.graph.read_onnx import read_onnx
from mnv4_deploy.profiles.graph.read_tflite import read_tflite
from mnv4_deploy.profiles.graph.tflite_graph import looks_like_tflite
from mnv4_deploy.profiles.records.graph import ModelGraph


def read_graph_of(
    path: str | Path, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> ModelGraph:
    """The main graph of a .tflite or .onnx file, told apart by content.

    ``shapes`` as in :func:`mnv4_deploy.profiles.graph.shapes.resolve_shape`. Raises
    ModelFileError for a file that cannot be read, UnsupportedError for shapes that do not fit.
    An .onnx file is run once, so a hostile one belongs in a child process.
    """
    file = Path(path)
    try:
        with file.open("rb") as stream:
            head = stream.read(8)
    except OSError as error:
        raise ModelFileError(f"{file} cannot be read: {error.strerror or error}.") from error
    return read_tflite(file, shapes) if looks_like_tflite(head) else read_onnx(file, shapes or {})
