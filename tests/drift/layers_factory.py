"""A small network written straight to .onnx and .tflite, in float and in int8.

conv1 3x3 + ReLU -> conv2 3x3 depthwise -> add(conv1, conv2) -> mean -> dense. Scales are free,
so that a layer can be spoilt; ``reference`` is a second implementation of the same, in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional

from mnv4_deploy.models.records import Preprocessing
from mnv4_deploy.sessions.records import ModelRef
from tests.profiles.conftest import TfliteBuilder, schema

SPEC = Preprocessing(8, 10, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
CHANNELS, CLASSES = 6, 5
LAYERS = ("conv1", "conv2", "add", "mean", "logits")
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Net:
    """Float weights, and the ``(low, high)`` that each int8 tensor holds.

    ``weight_steps`` is how many steps of an int8 weight one value takes: 1, or more to spoil it.
    """

    weights: Mapping[str, Floats]
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    weight_steps: Mapping[str, int] = field(default_factory=dict)

    def scale(self, tensor: str) -> tuple[float, int]:
        """Of an int8 tensor: scale and zero point."""
        low, high = self.ranges[tensor]
        scale = float(np.float32((high - low) / 255))
        return scale, round(-128 - low / scale)

    def weight_codes(self, layer: str) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
        """Symmetric int8 with one scale for each output channel."""
        own = self.weights[f"{layer}.weight"]
        shape = (-1, *[1] * (own.ndim - 1))
        scales = (np.abs(own).reshape(len(own), -1).max(axis=1) / 127).astype(np.float32)
        coarse = self.weight_steps.get(layer, 1)
        codes = np.rint(own / scales.reshape(shape) / coarse) * coarse
        return np.clip(codes, -127, 127).astype(np.int8), scales

    def bias_codes(self, layer: str, source: str) -> npt.NDArray[np.int32]:
        scales = self.scale(source)[0] * self.weight_codes(layer)[1].astype(np.float64)
        return np.rint(self.weights[f"{layer}.bias"] / scales).astype(np.int32)

    def dequantized(self) -> Net:
        """The same with the weights that int8 leaves."""
        weights = dict(self.weights)
        for layer in ("conv1", "conv2", "logits"):
            codes, scales = self.weight_codes(layer)
            shape = (-1, *[1] * (codes.ndim - 1))
            weights[f"{layer}.weight"] = codes * scales.astype(np.float64).reshape(shape)
        return replace(self, weights=weights)

    def quantized(self, tensor: str, values: Floats) -> Floats:
        """``values`` rounded to the int8 tensor's numbers."""
        scale, zero_point = self.scale(tensor)
        codes = np.clip(np.rint(values / scale) + zero_point, -128, 127)
        result: Floats = (codes - zero_point) * scale
        return result

    def layer(self, name: str, *inputs: Floats) -> Floats:
        """One layer in float64, NCHW."""
        x = [torch.from_numpy(np.ascontiguousarray(value)) for value in inputs]
        if name == "add":
            return inputs[0] + inputs[1]
        if name == "mean":
            return np.asarray(inputs[0].mean(axis=(2, 3)))
        weight, bias = (torch.from_numpy(self.weights[f"{name}.{p}"]) for p in ("weight", "bias"))
        if name == "logits":
            return functional.linear(x[0], weight, bias).numpy()
        groups = CHANNELS if name == "conv2" else 1
        found = functional.conv2d(x[0], weight, bias, padding=1, groups=groups)
        return (found.relu() if name == "conv1" else found).numpy()


INPUTS = {
    "conv1": ("input",),
    "conv2": ("conv1",),
    "add": ("conv1", "conv2"),
    "mean": ("add",),
    "logits": ("mean",),
}


def random_net(seed: int = 0) -> Net:
    rng = np.random.default_rng(seed)
    shapes = {"conv1": (CHANNELS, 3, 3, 3), "conv2": (CHANNELS, 1, 3, 3)}
    weights: dict[str, Floats] = {}
    for name, shape in {**shapes, "logits": (CLASSES, CHANNELS)}.items():
        # Powers of two times small integers: exact in float32.
        weights[f"{name}.weight"] = rng.integers(-99, 100, shape) / 256
        weights[f"{name}.bias"] = rng.integers(-50, 51, shape[0]) / 256
    return Net(weights)


def normalised(pixels: npt.NDArray[np.uint8]) -> Floats:
    """``[N, 3, H, W]``"""
    x = (pixels / 255.0 - np.array(SPEC.mean)) / np.array(SPEC.std)
    return np.asarray(x.transpose(0, 3, 1, 2))


def reference(net: Net, pixels: npt.NDArray[np.uint8]) -> dict[str, Floats]:
    """Every tensor of the float network, all images together."""
    values = {"input": normalised(pixels)}
    for name in LAYERS:
        values[name] = net.layer(name, *(values[i] for i in INPUTS[name]))
    return values


def calibrated(net: Net, pixels: npt.NDArray[np.uint8]) -> Net:
    """``net`` with the ranges that ``pixels`` use, zero included."""
    values = reference(net, pixels).items()
    ranges = {n: (min(float(v.min()), 0.0), max(float(v.max()), 0.0)) for n, v in values}
    return replace(net, ranges=ranges)


def make_pixels(count: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    colour = rng.integers(0, 256, (count, 1, 1, 3))
    values = np.clip(colour + rng.integers(-60, 61, (count, 8, 10, 3)), 0, 255)
    return np.asarray(values, np.uint8)


def make_subject(path: Path) -> ModelRef:
    return ModelRef(
        path.suffix[1:],  # type: ignore[arg-type]
        path.name,
        str(path),
        SPEC,
        "file",
        "0" * 64,
        1,
        num_classes=CLASSES,
    )


def sqnr(truth: Floats, found: Floats) -> float:
    return float(10 * np.log10((truth**2).sum() / ((truth - found) ** 2).sum()))


def write_onnx(net: Net, path: Path) -> Path:
    """QDQ where ``net`` has ranges, float otherwise."""
    nodes: list[Any] = []
    constants: dict[str, npt.NDArray[Any]] = {}

    def pair(name: str, source: str) -> str:
        """QuantizeLinear and DequantizeLinear behind the tensor ``source``."""
        if not net.ranges:
            return source
        scale, zero_point = net.scale(name)
        constants[f"{name}_scale"] = np.array(scale, np.float32)
        constants[f"{name}_zero_point"] = np.array(zero_point, np.int8)
        scales = [f"{name}_scale", f"{name}_zero_point"]
        code, result = f"{name}_QuantizeLinear_Output", f"{name}_DequantizeLinear_Output"
        nodes.append(helper.make_node("QuantizeLinear", [source, *scales], [code]))
        nodes.append(helper.make_node("DequantizeLinear", [code, *scales], [result]))
        return result

    def constant(name: str, codes: npt.NDArray[Any], scales: npt.NDArray[np.float32]) -> str:
        constants[f"{name}_quantized"], constants[f"{name}_scale"] = codes, scales
        constants[f"{name}_zero_point"] = np.zeros(len(scales), codes.dtype)
        inputs = [f"{name}_quantized", f"{name}_scale", f"{name}_zero_point"]
        result = f"{name}_DequantizeLinear_Output"
        nodes.append(helper.make_node("DequantizeLinear", inputs, [result], axis=0))
        return result

    def parameters(layer: str, source: str) -> list[str]:
        names = [f"{layer}.weight", f"{layer}.bias"]
        if not net.ranges:
            constants.update({n: net.weights[n].astype(np.float32) for n in names})
            return names
        codes, scales = net.weight_codes(layer)
        bias_scales = (scales * np.float32(net.scale(source)[0])).astype(np.float32)
        bias = net.bias_codes(layer, source)
        return [constant(names[0], codes, scales), constant(names[1], bias, bias_scales)]

    image = pair("input", "input")
    inputs = [image, *parameters("conv1", "input")]
    nodes.append(helper.make_node("Conv", inputs, ["conv1/Conv"], pads=[1] * 4))
    nodes.append(helper.make_node("Relu", ["conv1/Conv"], ["conv1"]))
    conv1 = pair("conv1", "conv1")
    inputs = [conv1, *parameters("conv2", "conv1")]
    nodes.append(helper.make_node("Conv", inputs, ["conv2"], pads=[1] * 4, group=CHANNELS))
    nodes.append(helper.make_node("Add", [conv1, pair("conv2", "conv2")], ["add"]))
    nodes.append(helper.make_node("GlobalAveragePool", [pair("add", "add")], ["mean"]))
    nodes.append(helper.make_node("Flatten", [pair("mean", "mean")], ["flat"]))
    inputs = [_flat(net, nodes, constants), *parameters("logits", "mean")]
    last = "scores" if net.ranges else "logits"
    nodes.append(helper.make_node("Gemm", inputs, [last], transB=1))
    if net.ranges:
        pair("logits", "scores")
        nodes[-1].output[0] = "logits"
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "net",
        [value("input", TensorProto.FLOAT, [1, 3, 8, 10])],
        [value("logits", TensorProto.FLOAT, [1, CLASSES])],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def _flat(net: Net, nodes: list[Any], constants: dict[str, npt.NDArray[Any]]) -> str:
    """A pair behind Flatten with the scale in front of it, as onnxruntime's quantizer puts it."""
    if not net.ranges:
        return "flat"
    scale, zero_point = net.scale("mean")
    constants["flat_scale"] = np.array(scale, np.float32)
    constants["flat_zero_point"] = np.array(zero_point, np.int8)
    scales = ["flat_scale", "flat_zero_point"]
    nodes.append(helper.make_node("QuantizeLinear", ["flat", *scales], ["flat_q"]))
    nodes.append(helper.make_node("DequantizeLinear", ["flat_q", *scales], ["flat_dq"]))
    return "flat_dq"


def write_tflite(net: Net, path: Path) -> Path:
    """int8 throughout, its input too, where ``net`` has ranges; float otherwise."""
    b = TfliteBuilder()
    shapes = {
        "input": (1, 8, 10, 3),
        **dict.fromkeys(("conv1", "conv2", "add"), (1, 8, 10, CHANNELS)),
        "mean": (1, CHANNELS),
        "logits": (1, CLASSES),
    }

    def tensor(name: str) -> int:
        if not net.ranges:
            return b.tensor(name, shapes[name])
        scale, zero_point = net.scale(name)
        return b.tensor(name, shapes[name], "int8", scale=scale, zero_point=zero_point)

    def parameters(layer: str, source: str) -> tuple[int, int]:
        order = {"conv1": (0, 2, 3, 1), "conv2": (1, 2, 3, 0), "logits": (0, 1)}[layer]
        weight, bias = (net.weights[f"{layer}.{p}"] for p in ("weight", "bias"))
        names = f"{layer}.weight", f"{layer}.bias"
        if not net.ranges:
            floats = weight.transpose(order).astype(np.float32)
            w = b.tensor(names[0], floats.shape, data=floats)
            return w, b.tensor(names[1], bias.shape, data=bias.astype(np.float32))
        codes, scales = net.weight_codes(layer)
        codes = np.ascontiguousarray(codes.transpose(order))
        w = b.tensor(names[0], codes.shape, "int8", data=codes, scale=scales.tolist())
        b.graph.tensors[w].quantization.quantizedDimension = 3 if layer == "conv2" else 0
        bias_scales = (scales * np.float32(net.scale(source)[0])).tolist()
        integers = net.bias_codes(layer, source)
        return w, b.tensor(names[1], bias.shape, "int32", data=integers, scale=bias_scales)

    known = {name: tensor(name) for name in shapes}
    stride: dict[str, Any] = {"strideW": 1, "strideH": 1, "padding": schema.Padding.SAME}
    relu = schema.ActivationFunctionType.RELU
    b.op(
        "CONV_2D",
        (known["input"], *parameters("conv1", "input")),
        (known["conv1"],),
        "Conv2DOptions",
        version=3,
        fusedActivationFunction=relu,
        **stride,
    )
    b.op(
        "DEPTHWISE_CONV_2D",
        (known["conv1"], *parameters("conv2", "conv1")),
        (known["conv2"],),
        "DepthwiseConv2DOptions",
        version=3,
        depthMultiplier=1,
        **stride,
    )
    b.op("ADD", (known["conv1"], known["conv2"]), (known["add"],), "AddOptions", version=2)
    axes = b.tensor("axes", (2,), "int32", data=np.array([1, 2], np.int32))
    b.op(
        "MEAN", (known["add"], axes), (known["mean"],), "ReducerOptions", version=2, keepDims=False
    )
    b.op(
        "FULLY_CONNECTED",
        (known["mean"], *parameters("logits", "mean")),
        (known["logits"],),
        "FullyConnectedOptions",
        version=4,
    )
    return b.write(path, [known["input"]], [known["logits"]])
