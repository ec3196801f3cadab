"""Small model files with planted properties, written through the formats' own schemas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
flatbuffer_utils = pytest.importorskip("ai_edge_litert.tools.flatbuffer_utils")
onnx = pytest.importorskip("onnx")

_TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "float16": schema.TensorType.FLOAT16,
    "int8": schema.TensorType.INT8,
    "uint8": schema.TensorType.UINT8,
    "int32": schema.TensorType.INT32,
    "int64": schema.TensorType.INT64,
    "int16": schema.TensorType.INT16,
    "bool": schema.TensorType.BOOL,
    "string": schema.TensorType.STRING,
}


@dataclass
class TfliteBuilder:
    """Collects tensors and operators, then writes a .tflite file."""

    model: Any = field(default_factory=schema.ModelT)

    def __post_init__(self) -> None:
        graph = schema.SubGraphT()
        graph.tensors, graph.operators, graph.name = [], [], "main"
        self.model.version = 3
        self.model.subgraphs, self.model.operatorCodes = [graph], []
        self.model.buffers = [schema.BufferT()]
        self.graph = graph

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: str = "float32",
        *,
        scale: float | Sequence[float] | None = None,
        zero_point: int = 0,
        data: np.ndarray | None = None,
    ) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = name, list(shape), _TYPES[dtype]
        tensor.buffer = 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            tensor.buffer = len(self.model.buffers) - 1
        if scale is not None:
            scales = [scale] if isinstance(scale, float) else list(scale)
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = scales
            tensor.quantization.zeroPoint = [zero_point] * len(scales)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def op(
        self,
        kind: str,
        inputs: Sequence[int],
        outputs: Sequence[int],
        options: str | None = None,
        *,
        version: int = 1,
        custom: str | None = None,
        **values: Any,
    ) -> None:
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, kind)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.version = version
        code.customCode = custom
        self.model.operatorCodes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex = len(self.model.operatorCodes) - 1
        operator.inputs, operator.outputs = list(inputs), list(outputs)
        if options is not None:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            operator.builtinOptions = getattr(schema, f"{options}T")()
            for name, value in values.items():
                setattr(operator.builtinOptions, name, value)
        self.graph.operators.append(operator)

    def metadata(self, name: str, content: bytes) -> None:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(content, np.uint8)
        self.model.buffers.append(buffer)
        entry = schema.MetadataT()
        entry.name, entry.buffer = name, len(self.model.buffers) - 1
        self.model.metadata = [*(self.model.metadata or []), entry]

    def write(self, path: Path, inputs: Sequence[int], outputs: Sequence[int]) -> Path:
        self.graph.inputs, self.graph.outputs = list(inputs), list(outputs)
        flatbuffer_utils.write_model(self.model, str(path))
        return path


def _conv_net(path: Path, *, break_delegation: bool = False) -> Path:
    """conv -> (CUMSUM, which XNNPACK has not) -> conv -> mean, in float32."""
    rng = np.random.default_rng(0)
    b = TfliteBuilder()
    image = b.tensor("image", (1, 32, 32, 3))
    current, channels = image, 3
    for step, width in enumerate((16, 16)):
        weight = rng.standard_normal((width, 3, 3, channels)).astype(np.float32)
        w = b.tensor(f"w{step}", weight.shape, data=weight)
        bias = b.tensor(f"b{step}", (width,), data=np.zeros(width, np.float32))
        out = b.tensor(f"conv{step}", (1, 32, 32, width))
        b.op("CONV_2D", (current, w, bias), (out,), "Conv2DOptions", strideW=1, strideH=1)
        current, channels = out, width
        if step == 0 and break_delegation:
            axis = b.tensor("axis", (), "int32", data=np.array(3, np.int32))
            summed = b.tensor("cumulative", (1, 32, 32, width))
            b.op("CUMSUM", (current, axis), (summed,), "CumsumOptions")
            current = summed
    axes = b.tensor("axes", (2,), "int32", data=np.array([1, 2], np.int32))
    pooled = b.tensor("pooled", (1, channels))
    b.op("MEAN", (current, axes), (pooled,), "ReducerOptions", keepDims=False)
    b.metadata("labels", b"cat\ndog")
    return b.write(path, (image,), (pooled,))


@pytest.fixture
def tflite() -> TfliteBuilder:
    return TfliteBuilder()


@pytest.fixture(scope="session")
def conv_tflite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _conv_net(tmp_path_factory.mktemp("tflite") / "conv.tflite")


@pytest.fixture(scope="session")
def split_tflite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tflite")
    return _conv_net(folder / "split.tflite", break_delegation=True)


def _onnx_conv_net(path: Path) -> Path:
    rng = np.random.default_rng(0)
    weights = {
        "w0": rng.standard_normal((16, 3, 3, 3)).astype(np.float32),
        "w1": rng.standard_normal((16, 16, 3, 3)).astype(np.float32),
    }
    nodes = [
        onnx.helper.make_node("Conv", ["image", "w0"], ["c0"], name="conv0", pads=[1] * 4),
        onnx.helper.make_node("Relu", ["c0"], ["r0"], name="relu0"),
        onnx.helper.make_node("Conv", ["r0", "w1"], ["c1"], name="conv1", pads=[1] * 4),
        onnx.helper.make_node("Erf", ["c1"], ["e1"], name="erf1"),
        onnx.helper.make_node("GlobalAveragePool", ["e1"], ["pooled"], name="pool"),
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "net",
        [value("image", onnx.TensorProto.FLOAT, ["batch", 3, 32, 32])],
        [value("pooled", onnx.TensorProto.FLOAT, ["batch", 16, 1, 1])],
        [onnx.numpy_helper.from_array(w, name) for name, w in weights.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.helper.set_model_props(model, {"labels": "cat,dog"})
    onnx.save(model, str(path))
    return path


@pytest.fixture(scope="session")
def conv_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxruntime")
    return _onnx_conv_net(tmp_path_factory.mktemp("onnx") / "conv.onnx")


@pytest.fixture(scope="session")
def qdq_onnx(conv_onnx: Path) -> Path:
    """The same net quantized by onnxruntime's own tool, with Erf left in float."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            rng = np.random.default_rng(1)
            self.feeds = iter(
                {"image": rng.standard_normal((1, 3, 32, 32)).astype(np.float32)} for _ in range(4)
            )

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    path = conv_onnx.with_name("qdq.onnx")
    quantize_static(
        str(conv_onnx),
        str(path),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv", "Relu"],
    )
    return path
