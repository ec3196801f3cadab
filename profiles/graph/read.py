"""Reads the graph of a model file, whatever its format."""

from __future__ import annotations

from pathlib import Path

from mnv4_deploy.profiles.graph.format import format_of
from mnv4_deploy.profiles.graph.onnx.read import read_onnx
from mnv4_deploy.profiles.graph.shapes import Shapes
from mnv4_deploy.profiles.graph.tflite.read import read_tflite
from mnv4_deploy.profiles.graph.tflite.resize import resized
from mnv4_deploy.profiles.records.graph import ModelGraph
from mnv4_deploy.profiles.records.inputs import GivenInputs


def read_graph_of(
    path: str | Path,
    shapes: Shapes | None = None,
    given: GivenInputs | None = None,
    *,
    signature: str = "",
    whole: bool = False,
) -> ModelGraph:
    """The main graph of a .tflite or .onnx file, told apart by content.

    ``signature`` is the one of a .tflite file whose graph it is, "" for the first. ``shapes`` as
    in :func:`mnv4_deploy.profiles.graph.shapes.resolve_shape`, ``given`` and ``whole`` (of .onnx
    files) as in :func:`mnv4_deploy.profiles.graph.onnx.read.read_onnx`. Raises ModelFileError for
    a file that cannot be read, UnsupportedError for shapes, values and a signature that do not
    fit. The file is run once, so a hostile one belongs in a child process.
    """
    file = Path(path)
    if format_of(file) == "tflite":
        return resized(file, read_tflite(file, signature), shapes or {})
    return read_onnx(file, shapes, given, whole=whole)
