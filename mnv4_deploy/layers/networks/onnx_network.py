"""The intermediate tensors of an .onnx file, with onnxruntime's own kernels.

onnxruntime turns DequantizeLinear -> Conv -> QuantizeLinear into one int8 kernel, but not where
someone wants the float value in between. So only what a layer leaves in the end becomes an
output: the integers behind its QuantizeLinear.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mnv4_deploy.layers.layer import (
    Array,
    Disturbed,
    Format,
    Isolated,
    NetworkLayer,
    Reweighed,
    Values,
    Weights,
)
from mnv4_deploy.layers.networks.file_network import FileNetwork
from mnv4_deploy.layers.networks.onnx_constants import Constants
from mnv4_deploy.models.records import Preprocessing
from mnv4_deploy.profiles.graph.onnx.external_weights import load_weights
from mnv4_deploy.profiles.graph.onnx.links import OnnxLinks
from mnv4_deploy.profiles.graph.onnx.model import load_onnx
from mnv4_deploy.profiles.runtimes.errors import translated
from mnv4_deploy.profiles.runtimes.ort.session import open_session, runtime_name


class OnnxNetwork(FileNetwork):
    format: Format = "onnx"

    def __init__(self, path: Path, spec: Preprocessing) -> None:
        self._model: onnx.ModelProto = load_onnx(onnx, path)
        load_weights(path, self._model)
        self._constants = Constants(self._model.graph)
        super().__init__(path, spec)
        self._session: Any = None

    def _name(self, tensor: int) -> str:
        return self.graph.tensors[tensor].name

    def _open(self, model: onnx.ModelProto) -> Any:
        with translated(runtime_name(), "run single layers of", self._path):
            return open_session(model.SerializeToString())

    def _with_outputs(self, tensors: Sequence[int]) -> onnx.ModelProto:
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        del model.graph.output[:]
        model.graph.output.extend(self._value(t, self._name(t)) for t in dict.fromkeys(tensors))
        return model

    def _value(
        self, tensor: int, name: str, shape: Sequence[int] | None = None
    ) -> onnx.ValueInfoProto:
        dtype = np.dtype(self.graph.tensors[tensor].dtype)
        return onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(dtype), shape
        )

    def run(self, feed: Values) -> dict[int, Array]:
        tensors = [*dict.fromkeys([*(layer.output for layer in self.layers), *self.outputs])]
        if self._session is None:
            self._session = self._open(self._with_outputs(tensors))
        feeds = {self._name(t): values for t, values in feed.items()}
        found = self._session.run([self._name(t) for t in tensors], feeds)
        return {t: self._real(t, value) for t, value in zip(tensors, found, strict=True)}

    def isolate(
        self,
        cut: Mapping[int, Array],
        outputs: Sequence[int],
        weights: Mapping[int, Array] | None = None,
    ) -> Isolated:
        model = self._with_outputs(outputs)
        self._reweigh(model, weights or {})
        given = {self._name(t): f"{self._name(t)};given" for t in cut}
        links = OnnxLinks(model.graph)
        for name, new in given.items():
            links.replace_reads(name, new)
        model.graph.input.extend(
            self._value(t, given[self._name(t)], values.shape) for t, values in cut.items()
        )
        session = self._open(model)
        names = [self._name(t) for t in outputs]
        used = {value.name for value in session.get_inputs()}

        def run(values: Values) -> dict[int, Array]:
            feeds = {self._name(t): values[t] for t in self.inputs}
            for tensor in cut:
                ready = values[tensor]
                if tensor in self._quantization:
                    ready = self._quantization[tensor].quantize(ready)
                dtype = np.dtype(self.graph.tensors[tensor].dtype)
                feeds[given[self._name(tensor)]] = np.ascontiguousarray(ready, dtype=dtype)
            found = session.run(names, {k: v for k, v in feeds.items() if k in used})
            return {t: self._real(t, v) for t, v in zip(outputs, found, strict=True)}

        return run

    def disturb(self, examples: Mapping[int, Array]) -> Disturbed:
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        names = {t: self._name(t) for t in examples}
        disturbed = {name: f"{name};disturbed" for name in names.values()}
        links = OnnxLinks(model.graph)
        for tensor, name in names.items():
            links.replace_reads(name, disturbed[name])
            noise = f"{name};noise"
            links.add("Add", [name, noise], disturbed[name], name=disturbed[name])
            model.graph.input.append(self._value(tensor, noise, examples[tensor].shape))
        results = [self._name(t) for t in self.outputs]
        results = [disturbed.get(name, name) for name in results]
        del model.graph.output[:]
        outputs = zip(self.outputs, results, strict=True)
        model.graph.output.extend(self._value(t, name) for t, name in outputs)
        session = self._open(model)
        still = {t: np.zeros(array.shape, np.float32) for t, array in examples.items()}

        def run(feed: Values, noise: Values) -> tuple[Array, ...]:
            feeds = {self._name(t): values for t, values in feed.items()}
            feeds |= {f"{names[t]};noise": noise.get(t, still[t]) for t in examples}
            return tuple(session.run(results, feeds))

        return run

    def _reweigh(self, model: onnx.ModelProto, weights: Mapping[int, Array]) -> None:
        links = OnnxLinks(model.graph)
        for layer in self.layers:
            if layer.output in weights:
                node = model.graph.node[layer.op]
                name = f"{node.input[1]};{layer.op}"
                links.add_constant(name, self._constants.stored(node, weights[layer.output]))
                node.input[1] = name

    def reweighed(self, weights: Mapping[int, Array]) -> Reweighed:
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        self._reweigh(model, weights)
        session = self._open(model)
        names = [self._name(t) for t in self.outputs]

        def run(feed: Values) -> tuple[Array, ...]:
            return tuple(session.run(names, {self._name(t): v for t, v in feed.items()}))

        return run

    def weights(self, layer: NetworkLayer) -> Weights | None:
        return self._constants.weights(self._model.graph.node[layer.op])

    def padding(self, layer: NetworkLayer) -> float | None:
        return self._constants.padding(self._model.graph.node[layer.op])
