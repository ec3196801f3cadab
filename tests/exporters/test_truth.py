"""Defects planted in small files of both formats are found, and good files raise no alarm."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils
from onnx import TensorProto, helper, numpy_helper

from mnv4_deploy.exporters import audit as truth
from mnv4_deploy.exporters.to_tflite.flatbuffer import TfliteFile
from mnv4_deploy.profiles.graph.onnx.links import OnnxLinks

_TYPES = {np.dtype(np.float32): 0, np.dtype(np.int32): 2, np.dtype(np.int8): 9}
_RISKY = 2**31 - 1 - 127 * 255 * 27  # the largest bias that 27 products of 127 * 255 leave safe


class _Tflite:
    """A model of single operators, written through the format's own schema."""

    def __init__(self):
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.version, self.model.subgraphs, self.model.operatorCodes = 3, [self.graph], []
        self.model.buffers = [schema.BufferT()]
        self.graph.tensors, self.graph.operators = [], []

    def tensor(self, shape, dtype, *, data=None, scale=None, zero_point=0):
        tensor = schema.TensorT()
        tensor.name = f"t{len(self.graph.tensors)}"
        tensor.shape, tensor.buffer = list(shape), 0
        tensor.type = _TYPES[np.dtype(dtype)]
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.ascontiguousarray(data, dtype).reshape(-1).view(np.uint8)
            self.model.buffers.append(buffer)
            tensor.buffer = len(self.model.buffers) - 1
        if scale is not None:
            tensor.quantization = schema.QuantizationParametersT()
            scales = np.atleast_1d(scale)
            tensor.quantization.scale = list(map(float, scales))
            tensor.quantization.zeroPoint = [zero_point] * len(scales)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def write(self, path, kind, inputs, outputs, options=None, *, version=1, **values):
        code, operator = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = getattr(schema.BuiltinOperator, kind)
        code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), version
        self.model.operatorCodes.append(code)
        operator.opcodeIndex, operator.inputs, operator.outputs = 0, inputs, outputs
        if options:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            operator.builtinOptions = getattr(schema, f"{options}T")()
            for name, value in values.items():
                setattr(operator.builtinOptions, name, value)
        self.graph.operators.append(operator)
        self.graph.inputs = [i for i in inputs if i >= 0 and not self.graph.tensors[i].buffer]
        self.graph.outputs = outputs
        flatbuffer_utils.write_model(self.model, str(path))
        return path


def _tflite_conv(path, kind, bias):
    """A 3x3 convolution of 3 channels (27 products a channel, 9 if depthwise), weights 127."""
    net = _Tflite()
    depthwise = kind == "DEPTHWISE_CONV_2D"
    shape = (1, 3, 3, len(bias)) if depthwise else (len(bias), 3, 3, 3)
    channels = len(bias) if depthwise else 3
    x = net.tensor((1, 8, 8, channels), np.int8, scale=0.1)
    scales = [0.01] * len(bias)
    w = net.tensor(shape, np.int8, data=np.full(shape, 127), scale=scales)
    net.graph.tensors[w].quantization.quantizedDimension = 3 if depthwise else 0
    b = net.tensor((len(bias),), np.int32, data=bias, scale=[0.001] * len(bias))
    y = net.tensor((1, 6, 6, len(bias)), np.int8, scale=0.1)
    options = {"padding": 1, "strideW": 1, "strideH": 1}
    if depthwise:
        options["depthMultiplier"] = 1
    name = "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions"
    return net.write(path, kind, [x, w, b], [y], name, version=3, **options)


@pytest.mark.parametrize(
    ("kind", "limit"),
    [("CONV_2D", _RISKY), ("DEPTHWISE_CONV_2D", 2**31 - 1 - 127 * 255 * 9)],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_overflowing_bias_in_tflite(tmp_path, kind, limit, sign):
    safe = _tflite_conv(tmp_path / "safe.tflite", kind, [0, sign * (limit - 1), 5])
    risky = _tflite_conv(tmp_path / "risky.tflite", kind, [0, sign * limit, 5])
    assert truth.check(safe).overflowing_biases == ()
    (name,) = truth.check(risky).overflowing_biases
    assert name == "t3"


def test_overflowing_bias_of_other_tflite_operators(tmp_path):
    for kind, bias, expected in (
        ("FULLY_CONNECTED", 2**31 - 1 - 127 * 255 * 27, 1),
        ("FULLY_CONNECTED", 2**31 - 2 - 127 * 255 * 27, 0),
        ("TRANSPOSE_CONV", 2**31 - 1 - 127 * 255 * 27, 1),
        ("TRANSPOSE_CONV", 2**31 - 2 - 127 * 255 * 27, 0),
    ):
        net = _Tflite()
        transpose = kind == "TRANSPOSE_CONV"
        shape = (2, 3, 3, 3) if transpose else (2, 27)
        w = net.tensor(shape, np.int8, data=np.full(shape, 127), scale=0.01)
        x = net.tensor((1, 8, 8, 3) if transpose else (1, 27), np.int8, scale=0.1)
        b = net.tensor((2,), np.int32, data=[0, bias], scale=0.001)
        y = net.tensor((1, 8, 8, 2) if transpose else (1, 2), np.int8, scale=0.1)
        size = net.tensor((4,), np.int32, data=[1, 8, 8, 2])
        inputs = [size, w, x, b] if transpose else [x, w, b]
        path = net.write(tmp_path / f"{kind}{expected}.tflite", kind, inputs, [y])
        assert len(truth._tflite_biases(TfliteFile(path))) == expected, kind


def _onnx(path, nodes, constants, x_shape, y_shape):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "net",
        [value("x", TensorProto.FLOAT, x_shape)],
        [value("y", TensorProto.FLOAT, y_shape)],
        [numpy_helper.from_array(np.asarray(data), name) for name, data in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def _onnx_product(path, kind, bias, *, transposed=True):
    """Conv (3 channels, 3x3) or Gemm (27 columns) in QDQ form, all weights 127."""
    channels = len(bias)
    shape = (channels, 3, 3, 3) if kind == "Conv" else (channels, 27)
    if not transposed:
        shape = shape[::-1]
    constants = {
        "w_q": np.full(shape, 127, np.int8),
        "w_s": np.full(channels, 0.01, np.float32),
        "w_z": np.zeros(channels, np.int8),
        "b_q": np.array(bias, np.int32),
        "b_s": np.full(channels, 0.001, np.float32),
        "b_z": np.zeros(channels, np.int32),
        "x_s": np.float32(0.1),
        "x_z": np.uint8(128),
    }
    extra = {"transB": int(transposed)} if kind == "Gemm" else {}
    axis = 0 if transposed else 1
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["x", "x_s", "x_z"], ["x_q"]),
        node("DequantizeLinear", ["x_q", "x_s", "x_z"], ["x_f"]),
        node("DequantizeLinear", ["w_q", "w_s", "w_z"], ["w"], axis=axis),
        node("DequantizeLinear", ["b_q", "b_s", "b_z"], ["b"], axis=0),
        node(kind, ["x_f", "w", "b"], ["y"], **extra),
    ]
    if kind == "Conv":
        return _onnx(path, nodes, constants, [1, 3, 8, 8], [1, channels, 6, 6])
    return _onnx(path, nodes, constants, [1, 27], [1, channels])


@pytest.mark.parametrize(("kind", "transposed"), [("Conv", True), ("Gemm", True), ("Gemm", False)])
def test_overflowing_bias_in_onnx(tmp_path, kind, transposed):
    safe, risky = tmp_path / "safe.onnx", tmp_path / "risky.onnx"
    _onnx_product(safe, kind, [0, 1 - _RISKY], transposed=transposed)
    _onnx_product(risky, kind, [0, -_RISKY], transposed=transposed)
    assert truth.check(safe).overflowing_biases == ()
    assert truth.check(risky).overflowing_biases == ("y",)


def _tflite_pad(path, value, *, scale=None, zero_point=0):
    """PADV2 with ``value``: float, or int8 where there is a scale."""
    dtype = np.float32 if scale is None else np.int8
    net = _Tflite()
    shared = {"scale": scale, "zero_point": zero_point}
    x = net.tensor((1, 4, 4, 2), dtype, **shared)
    pads = net.tensor((4, 2), np.int32, data=[[0, 0], [1, 1], [1, 1], [0, 0]])
    constant = net.tensor((1,), dtype, data=[value], **shared)
    y = net.tensor((1, 6, 6, 2), dtype, **shared)
    return net.write(path, "PADV2", [x, pads, constant], [y], "PadV2Options")


@pytest.mark.parametrize(
    ("value", "is_outlier"),
    [(-np.inf, True), (-1e9, True), (3e38, True), (np.nan, True), (0, False), (-6, False)],
)
def test_padding_in_float(tmp_path, value, is_outlier):
    tflite = _tflite_pad(tmp_path / "pad.tflite", value)
    pad = helper.make_node("Pad", ["x", "pads", "value"], ["y"])
    constants = {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "value": np.float32(value)}
    as_onnx = _onnx(tmp_path / "pad.onnx", [pad], constants, [1, 2, 4, 4], [1, 2, 6, 6])
    for path, name in ((tflite, "t3"), (as_onnx, "y")):
        found = truth.check(path).padding_outliers
        assert len(found) == is_outlier
        if is_outlier:
            assert found[0].startswith(f"{name} pads with ")


@pytest.mark.parametrize(
    ("quantized", "zero_point", "is_outlier"),
    [
        (-128, -128, False),  # zero, at the end of a range of positive values
        (-128, 0, False),  # the smallest of values around zero
        (127, 127, False),
        (-100, -128, False),
        (-128, 120, True),  # -248 steps below zero, 7 above: the constant made the range
        (127, -120, True),
        (-128, 63, False),  # 191 of 255 steps
        (-128, 64, True),  # 192 of 255
    ],
)
def test_padding_in_int8(tmp_path, quantized, zero_point, is_outlier):
    path = _tflite_pad(tmp_path / "pad.tflite", quantized, scale=0.05, zero_point=zero_point)
    assert len(truth.check(path).padding_outliers) == is_outlier
    constants = {
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "value": np.float32(0.05 * (quantized - zero_point)),
        "s": np.float32(0.05),
        "z": np.uint8(zero_point + 128),
        "v_q": np.uint8(255 if quantized > zero_point else 0),
        "v_s": np.float32(max(abs(quantized - zero_point), 1) * 0.05 / 255),
        "v_z": np.uint8(0 if quantized > zero_point else 255),
    }
    node = helper.make_node
    around = [
        node("QuantizeLinear", ["x", "s", "z"], ["x_q"]),
        node("DequantizeLinear", ["x_q", "s", "z"], ["x_f"]),
        node("QuantizeLinear", ["y_f", "s", "z"], ["y_q"]),
        node("DequantizeLinear", ["y_q", "s", "z"], ["y"]),
    ]
    if quantized == zero_point:
        constants["v_q"], constants["v_z"] = np.uint8(7), np.uint8(7)
    for name, nodes in (
        # The constant in float, or with a scale of its own that says nothing about the result's.
        ("float", [node("Pad", ["x_f", "pads", "value"], ["y_f"])]),
        (
            "own",
            [
                node("DequantizeLinear", ["v_q", "v_s", "v_z"], ["v"]),
                node("Pad", ["x_f", "pads", "v"], ["y_f"]),
            ],
        ),
    ):
        as_onnx = _onnx(
            tmp_path / f"{name}.onnx",
            [*around[:2], *nodes, *around[2:]],
            constants,
            [1, 2, 4, 4],
            [1, 2, 6, 6],
        )
        links = OnnxLinks(onnx.load(as_onnx).graph)
        assert len(truth._onnx_padding(links)) == is_outlier, name


def test_padding_with_a_computed_value_is_not_judged(tmp_path: Path):
    net = _Tflite()
    x = net.tensor((1, 4, 4, 2), np.float32)
    pads = net.tensor((4, 2), np.int32, data=[[0, 0], [1, 1], [1, 1], [0, 0]])
    value = net.tensor((1,), np.float32)
    y = net.tensor((1, 6, 6, 2), np.float32)
    path = net.write(tmp_path / "p.tflite", "PADV2", [x, pads, value], [y], "PadV2Options")
    assert truth._tflite_padding(TfliteFile(path)) == ()
