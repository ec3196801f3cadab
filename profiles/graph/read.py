"""Reads the graph of a model file, whatever its format."""

from __future__ import annotations

from pathlib import Path

from mnv4_deploy.profiles.graph.format import format_of
from mnv4_deploy.profiles.graph.read_onnx import read_onnx
from mnv4_deploy.profiles.graph.read_tflite import read_tflite
from mnv4_deploy.profiles.graph.resize_tflite import resized
from mnv4_deploy.profiles.graph.shapes import Shapes
from mnv4_deploy.profiles.records.graph import ModelGraph


def read_graph_of(path: str | Path, shapes: Shapes | None = None) -> ModelGraph:
    """The main graph of a .tflite or .onnx file, told apart by content.

    ``shapes`` as in :func:`mnv4_deploy.profiles.graph.shapes.resolve_shape`. Raises
    ModelFileError for a file that cannot be read, UnsupportedError for shapes that do not fit.
    An .onnx file is run once, so a hostile one belongs in a child process.
    """
    file = Path(path)
    if format_of(file) == "tflite":
        return resized(file, read_tflite(file), shapes or {})
    return read_onnx(file, shapes or {})
