"""What networks of files have in common, whatever their format."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mnv4_deploy.images.records import Pixels
from mnv4_deploy.layers.find_layers import find_layers
from mnv4_deploy.layers.layer import Array, Values
from mnv4_deploy.layers.quantizations import quantizations
from mnv4_deploy.models.records import Preprocessing
from mnv4_deploy.profiles.graph.read import read_graph_of
from mnv4_deploy.profiles.join.modules import module_of_ops
from mnv4_deploy.profiles.records.graph import ModelGraph
from mnv4_deploy.sessions.image_runner import open_image_runner


class FileNetwork:
    """The file at ``path`` for images prepared by ``spec``, and its graph with their shapes.

    Raises ModelFileError for a file that cannot be read or run.
    """

    def __init__(self, path: Path, spec: Preprocessing) -> None:
        self._path = path
        self._runner = open_image_runner(path, spec)
        self.graph: ModelGraph = read_graph_of(path, self._runner.feed.shapes())
        self._quantization = quantizations(self.graph)
        self.layers = find_layers(self.graph, module_of_ops(self.graph))
        self.inputs = self.graph.inputs
        self.outputs = self.graph.outputs

    def feed(self, pixels: Pixels, spec: Preprocessing) -> Values:
        self._runner.feed.spec = spec
        return dict(zip(self.inputs, self._runner.feed.one(pixels), strict=True))

    def plain(self, pixels: Pixels, spec: Preprocessing) -> tuple[Array, ...]:
        self._runner.feed.spec = spec
        return tuple(self._runner.outputs(pixels[None]).values())

    def _real(self, tensor: int, values: Array) -> Array:
        quantization = self._quantization.get(tensor)
        if quantization is not None:
            return quantization.dequantize(values)
        return values.astype(np.float32)
