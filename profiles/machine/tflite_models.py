"""One-operator .tflite files for measuring peaks, through the format's own schema."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv4_deploy.profiles.machine.products import ZERO_POINT, Compute, Product, random_weights


def write_tflite(path: Path, product: Product, compute: Compute) -> Path:
    """CONV_2D, or FULLY_CONNECTED, in ``compute`` arithmetic as TFLite spells it."""
    from ai_edge_litert import schema_py_generated as schema

    graph = TfliteGraph(schema)
    matrix, side = product.kernel == 0, product.kernel
    place = (product.height * product.width,) if matrix else (1, product.height, product.width)
    window = () if matrix else (side, side)
    moving = "float32" if compute in ("float32", "int8 dynamic") else compute
    held = "int8" if compute == "int8 dynamic" else compute
    quantized = moving != "float32"
    # XNNPACK takes int8 weights with a scale for each filter, uint8 ones with one for all.
    weight_scale = np.full(product.filters if held == "int8" else 1, 0.01, np.float32)
    scale, zero = (0.02, ZERO_POINT[moving]) if quantized else (None, 0)
    data = graph.tensor("data", (*place, product.channels), moving, scale=scale, zero_point=zero)
    out = graph.tensor("out", (*place, product.filters), moving, scale=scale, zero_point=zero)
    weight_shape = (product.filters, *window, product.channels)
    weight = graph.tensor(
        "weight",
        weight_shape,
        held,
        scale=None if held == "float32" else weight_scale,
        zero_point=ZERO_POINT.get(held, 0),
        data=random_weights(np.random.default_rng(0), weight_shape, held),
    )
    bias = graph.tensor(
        "bias",
        (product.filters,),
        "int32" if quantized else "float32",
        scale=weight_scale * scale if scale else None,
        data=np.zeros(product.filters, np.int32 if quantized else np.float32),
    )
    if matrix:
        graph.op("FULLY_CONNECTED", (data, weight, bias), (out,), "FullyConnectedOptions")
    else:
        graph.op(
            "CONV_2D", (data, weight, bias), (out,), "Conv2DOptions",
            strideW=1, strideH=1, dilationWFactor=1, dilationHFactor=1,
        )  # fmt: skip
    return graph.write(path, (data,), (out,))


def write_tflite_chain(path: Path, length: int) -> Path:
    """``length`` additions of 16 floats, each of the last one's result."""
    from ai_edge_litert import schema_py_generated as schema

    graph = TfliteGraph(schema)
    first = graph.tensor("x", (1, 16), "float32")
    last = first
    for step in range(length):
        result = graph.tensor(f"y{step}", (1, 16), "float32")
        graph.op("ADD", (last, first), (result,), "AddOptions")
        last = result
    return graph.write(path, (first,), (last,))


class TfliteGraph:
    """Collects tensors and operators of a .tflite file through the format's own schema."""

    def __init__(self, schema: Any) -> None:
        self._schema = schema
        self._graph = schema.SubGraphT()
        self._graph.tensors, self._graph.operators, self._graph.name = [], [], "main"
        self._buffers = [schema.BufferT()]
        self._codes: list[Any] = []

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: str,
        *,
        scale: Any = None,
        zero_point: int = 0,
        data: NDArray[Any] | None = None,
    ) -> int:
        tensor = self._schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = name, list(shape), 0
        tensor.type = getattr(self._schema.TensorType, dtype.upper())
        if data is not None:
            buffer = self._schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            self._buffers.append(buffer)
            tensor.buffer = len(self._buffers) - 1
        if scale is not None:
            tensor.quantization = self._schema.QuantizationParametersT()
            tensor.quantization.scale = np.atleast_1d(np.asarray(scale, np.float32))
            tensor.quantization.zeroPoint = [zero_point] * len(tensor.quantization.scale)
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def op(
        self, kind: str, inputs: Sequence[int], outputs: Sequence[int], options: str, **values: int
    ) -> None:
        code = self._schema.OperatorCodeT()
        code.builtinCode = getattr(self._schema.BuiltinOperator, kind)
        code.deprecatedBuiltinCode = code.builtinCode
        # The version from which per-channel and run-time quantization are allowed.
        code.version = 5 if kind != "ADD" else 1
        if code.builtinCode not in [c.builtinCode for c in self._codes]:
            self._codes.append(code)
        operator = self._schema.OperatorT()
        operator.opcodeIndex = [c.builtinCode for c in self._codes].index(code.builtinCode)
        operator.inputs, operator.outputs = list(inputs), list(outputs)
        operator.builtinOptionsType = getattr(self._schema.BuiltinOptions, options)
        operator.builtinOptions = getattr(self._schema, f"{options}T")()
        for name, value in values.items():
            setattr(operator.builtinOptions, name, value)
        self._graph.operators.append(operator)

    def write(self, path: Path, inputs: Sequence[int], outputs: Sequence[int]) -> Path:
        import flatbuffers

        self._graph.inputs, self._graph.outputs = list(inputs), list(outputs)
        model = self._schema.ModelT()
        model.version, model.description = 3, "mnv4-deploy machine"
        model.subgraphs, model.operatorCodes = [self._graph], self._codes
        model.buffers = self._buffers
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), b"TFL3")
        path.write_bytes(builder.Output())
        return path
