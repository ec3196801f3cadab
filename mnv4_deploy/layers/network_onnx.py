"""The intermediate tensors of an .onnx file, with onnxruntime's own kernels.

onnxruntime turns DequantizeLinear -> Conv -> QuantizeLinear into one int8 kernel, but not where
someone wants the float value in between. So only what a layer leaves in the end becomes an
output: the integers behind its QuantizeLinear.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from mnv4_deploy.errors import ModelFileError
from mnv4_deploy.layers.families import DEQUANTIZE
from mnv4_deploy.layers.feed import feed_image, image_shape
from mnv4_deploy.layers.find_layers import find_layers
from mnv4_deploy.layers.layer import Array, Format, Isolated, Layer, Quantization, Values, Weights
from mnv4_deploy.layers.onnx_constants import Constants
from mnv4_deploy.models.records import Preprocessing
from mnv4_deploy.profiles.graph.external_weights import load_weights
from mnv4_deploy.profiles.graph.onnx_model import load_onnx
from mnv4_deploy.profiles.graph.read_onnx import read_onnx
from mnv4_deploy.profiles.join.modules import module_of_ops
from mnv4_deploy.profiles.records.graph import ModelGraph
from mnv4_deploy.sessions.image_runner import OnnxRunner, onnx_quantization

_INTEGERS = frozenset({"int8", "uint8", "int16", "uint16"})
_SAME_CODES = frozenset(
    {"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Split", "Slice", "MaxPool"}
)
# Where operators on integers keep the scale of their result; the zero point follows.
_RESULT_SCALE = {
    **dict.fromkeys(("QLinearConv", "QLinearMatMul", "QLinearAdd", "QLinearMul"), 6),
    **dict.fromkeys(("QLinearGlobalAveragePool", "QLinearAveragePool", "QLinearSigmoid"), 3),
    **dict.fromkeys(("QLinearLeakyRelu", "QLinearSoftmax", "QLinearReduceMean"), 3),
    **{"QGemm": 7, "QLinearConcat": 0, "QuantizeLinear": 1},
}


class OnnxNetwork:
    format: Format = "onnx"

    def __init__(self, path: Path, spec: Preprocessing) -> None:
        self._path = path
        self._model: onnx.ModelProto = load_onnx(onnx, path)
        load_weights(path, self._model)
        self._constants = Constants(self._model.graph)
        stored = {tensor.name for tensor in self._model.graph.initializer}
        given = next(v for v in self._model.graph.input if v.name not in stored)
        dims = given.type.tensor_type.shape.dim
        shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in dims)
        self.graph: ModelGraph = read_onnx(path, {given.name: image_shape(shape, spec)})
        self._index = {tensor.name: i for i, tensor in enumerate(self.graph.tensors)}
        self._quantization = dict(self._quantizations())
        self.layers = find_layers(self.graph, module_of_ops(self.graph), self._quantization)
        self.inputs = self.graph.inputs
        self.final = self.graph.outputs[0]
        self._runner = OnnxRunner(path, spec)
        self._session: Any = None

    def _quantizations(self) -> Iterator[tuple[int, Quantization]]:
        found: dict[str, tuple[float, int]] = {}
        metadata = {entry.key: entry.value for entry in self._model.metadata_props}
        for value in (*self._model.graph.input, *self._model.graph.output):
            pair = onnx_quantization(metadata, value.name)
            if pair[0] > 0:
                found[value.name] = pair
        for node in self._model.graph.node:
            if node.op_type in DEQUANTIZE:
                own = self._constants.scalar_pair(node.input[1:])
                if own is not None:
                    found[node.input[0]] = own
            elif node.op_type in _RESULT_SCALE:
                own = self._constants.scalar_pair(node.input[_RESULT_SCALE[node.op_type] :])
                if own is not None:
                    found[node.output[0]] = own
            elif node.op_type in _SAME_CODES and node.input[0] in found:
                found.update(dict.fromkeys(node.output, found[node.input[0]]))
        for name, (scale_, zero_point_) in found.items():
            index = self._index.get(name)
            if index is not None and self.graph.tensors[index].dtype in _INTEGERS:
                dtype = self.graph.tensors[index].dtype
                yield index, Quantization(scale_, zero_point_, dtype)

    def feed(self, pixels: npt.NDArray[np.uint8], spec: Preprocessing) -> Array:
        return feed_image(self._runner, pixels, spec)

    def plain(self, pixels: npt.NDArray[np.uint8], spec: Preprocessing) -> Array:
        self._runner.spec = spec
        return self._runner.run(pixels[None])

    def _real(self, tensor: int, values: Array) -> Array:
        quantization = self._quantization.get(tensor)
        if quantization is not None:
            return quantization.dequantize(values)
        return values.astype(np.float32)

    def _name(self, tensor: int) -> str:
        return self.graph.tensors[tensor].name

    def _open(self, model: onnx.ModelProto) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        try:
            return onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's exceptions share no base
            raise ModelFileError(
                f"{self._path} cannot be run layer by layer: {str(error).partition(chr(10))[0]}"
            ) from error

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

    def run(self, feed: Array) -> dict[int, Array]:
        tensors = [*dict.fromkeys([*(layer.output for layer in self.layers), self.final])]
        if self._session is None:
            self._session = self._open(self._with_outputs(tensors))
        source = self._name(self.inputs[0])
        found = self._session.run([self._name(t) for t in tensors], {source: feed})
        return {t: self._real(t, value) for t, value in zip(tensors, found, strict=True)}

    def isolate(self, cut: Mapping[int, Array], outputs: Sequence[int]) -> Isolated:
        model = self._with_outputs(outputs)
        given = {self._name(t): f"{self._name(t)};given" for t in cut}
        for node in model.graph.node:
            node.input[:] = [given.get(name, name) for name in node.input]
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

    def weights(self, layer: Layer) -> Weights | None:
        return self._constants.weights(self._model.graph.node[layer.op])

    def padding(self, layer: Layer) -> float | None:
        return self._constants.padding(self._model.graph.node[layer.op])
