"""Scales with which x86 without VNNI adds int8 products exactly: the codes, and what runs."""

import itertools

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from mnv4_deploy.exporters.pair_scales import channel_scales, partners
from mnv4_deploy.exporters.recovery.rounding import optimise_rounding
from mnv4_deploy.exporters.to_onnx.quantize import quantize_onnx
from mnv4_deploy.profiles.machine.cpu import read_cpu
from mnv4_deploy.profiles.runtimes.tensors import TensorRunner

SHAPES = {  # [C_out, C_in / groups, *kernel]; groups
    "1x1": ((16, 16, 1, 1), 1),
    "1x1, odd": ((6, 7, 1, 1), 1),
    "one input": ((5, 1, 1, 1), 1),
    "3x3": ((16, 8, 3, 3), 1),
    "1x1, many": ((24, 601, 1, 1), 1),
    "3x3, many": ((40, 72, 3, 3), 1),
    "3x3, odd": ((8, 3, 3, 3), 1),
    "grouped": ((16, 4, 3, 3), 4),
    "two of each channel": ((32, 1, 3, 3), 16),
    "depthwise": ((16, 1, 3, 3), 16),
    "depthwise, odd": ((7, 1, 5, 5), 7),
    "depthwise, columns": ((24, 1, 1, 3), 24),
    "Gemm": ((12, 16), 1),
    "Gemm, odd": ((12, 17), 1),
    "Gemm, transposed": ((12, 16), 1),
    "MatMul": ((12, 16), 1),
}


def random(shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def equal(shape):
    return np.full(shape, 0.3, np.float32)


def alternating(shape):
    """Signs alternate in the order of the product: no pair adds up to anything, all codes are 127.

    Were other pairs added than these, sums would saturate.
    """
    weight = equal(shape).reshape(shape[0], -1)
    weight[:, product_order(shape)[1::2]] *= -1
    return weight.reshape(shape)


def dead(shape):
    """A channel of zeros and one next to it."""
    weight = random(shape)
    weight[0], weight[1] = 0, 1e-35
    return weight


def one_pair(shape):
    """All alone but for the last two weights in the order of the product."""
    weight = 0.01 * random(shape)
    places = np.unravel_index(product_order(shape)[-2:], shape[1:])
    weight[(slice(None), *places)] = 1.0
    return weight


# Their kernels widen products before they add: full codes, whatever the file's grid.
DEPTHWISE = [name for name in SHAPES if name.startswith("depthwise")]
CONVOLUTIONS = [
    "1x1",
    "1x1, odd",
    "one input",
    "3x3",
    "3x3, odd",
    "grouped",
    "two of each channel",
]
WEIGHTS = [random, equal, alternating, dead, one_pair]


def product_order(shape):
    """Where the weights of a channel are in memory, ordered by kh, kw, c_in; in plain loops."""
    inputs, height, width = (*shape[1:], 1, 1)[:3]
    return [
        (i * height + y) * width + x
        for y in range(height)
        for x in range(width)
        for i in range(inputs)
    ]


def codes_in_order(codes):
    rows = codes.reshape(len(codes), -1)[:, product_order(codes.shape)].astype(int)
    return np.pad(rows, ((0, 0), (0, rows.shape[1] % 2))).reshape(len(codes), -1, 2)


@pytest.mark.parametrize("name", SHAPES)
def test_partners_are_neighbours_in_the_order_of_the_product(name):
    shape, _ = SHAPES[name]
    order = product_order(shape)
    found = partners(shape)
    assert len(found) == len(order)
    for first, second in zip(order[::2], order[1::2], strict=False):
        assert found[first] == second
        assert found[second] == first
    if len(order) % 2:
        assert found[order[-1]] == len(order)


def test_scales_by_hand():
    weight = np.array([[1, 2, 3, -4, 5], [6, 2, 0, 1, 0], [0, 0, 0, 0, 0]], np.float32)
    np.testing.assert_allclose(channel_scales(weight, "pairs") * 127, [5, 8, 0])
    np.testing.assert_allclose(channel_scales(weight, "full") * 127, [5, 6, 0])
    # [1, 2 inputs, 1, 3 columns]: by columns (1, -4), (2, 5), (3, 6), not (1, 2), (3, -4), (5, 6)
    weight = np.array([[1, 2, 3], [-4, 5, 6]], np.float32).reshape(1, 2, 1, 3)
    np.testing.assert_allclose(channel_scales(weight, "pairs") * 127, [9])


def float_model(name, weight, bias, groups):
    constants = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")]
    if weight.ndim == 4:
        shape, result = [1, weight.shape[1] * groups, 5, 5], [1, len(weight), None, None]
        node = helper.make_node("Conv", ["x", "w", "b"], ["y"], name="layer", group=groups)
    else:
        shape, result = [1, weight.shape[1]], [1, len(weight)]
        node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="layer", transB=1)
        if name in ("MatMul", "Gemm, transposed"):
            constants[0] = numpy_helper.from_array(np.ascontiguousarray(weight.T), "w")
            node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="layer")
        if name == "MatMul":
            constants = constants[:1]
            node = helper.make_node("MatMul", ["x", "w"], ["y"], name="layer")
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, result)],
        constants,
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8), shape


class Layer:
    """One int8 layer with uint8 input (0 to 1) and output: its constants and what it computes."""

    def __init__(self, folder, name, weight, *, grid="pairs"):
        self.groups = SHAPES[name][1]
        rng = np.random.default_rng(1)
        self.bias = rng.normal(size=len(weight)).astype(np.float32)
        model, self.shape = float_model(name, weight, self.bias, self.groups)
        onnx.save(model, folder / "fp32.onnx")
        shown = [np.ones(self.shape), np.zeros(self.shape), rng.random(self.shape)]
        quantize_onnx(
            folder / "fp32.onnx",
            folder / "int8.onnx",
            [x.astype(np.float32) for x in shown],
            method="minmax",
            io="uint8",
            weights=grid,
        )
        graph = onnx.load(folder / "int8.onnx").graph
        constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        node = next(n for n in graph.node if n.name == "layer")
        makers = {n.output[0]: n for n in graph.node}
        inputs = [[constants.get(i) for i in makers[name].input] for name in node.input]
        (_, self.input_scale, zero_point), (codes, self.scales, _), *rest = inputs
        assert zero_point == 0
        self.codes = codes.T if name in ("MatMul", "Gemm, transposed") else codes
        self.bias_codes = np.asarray(rest[0][0] if rest else 0, np.int32)
        self.bias_scales = np.asarray(rest[0][1] if rest else self.input_scale * self.scales)
        last = next(n for n in graph.node if n.op_type == "QuantizeLinear")
        self.output_scale, self.zero_point = (constants[i] for i in last.input[1:])
        self._session = ort.InferenceSession(
            folder / "int8.onnx", providers=["CPUExecutionProvider"]
        )

    def run(self, x):
        return self._session.run(None, {"x": x})[0]

    def exact(self, x):
        """In int64, and in float32 from the sums to the output, as the kernels do."""
        codes, x = self.codes.astype(np.int64), x.astype(np.int64)
        if codes.ndim == 2:
            sums = x @ codes.T + self.bias_codes
            factors = self.input_scale * self.scales / self.output_scale
        else:
            windows = np.lib.stride_tricks.sliding_window_view(x, codes.shape[2:], axis=(2, 3))
            parts = zip(
                np.split(windows, self.groups, axis=1), np.split(codes, self.groups), strict=True
            )
            sums = [np.einsum("bihwyx,oiyx->bohw", window, code) for window, code in parts]
            sums = np.concatenate(sums, axis=1) + self.bias_codes[:, None, None]
            factors = (self.input_scale * self.scales / self.output_scale)[:, None, None]
        levels = np.rint(sums.astype(np.float32) * factors) + self.zero_point
        return np.clip(levels, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("make", WEIGHTS)
@pytest.mark.parametrize("name", SHAPES)
def test_codes_and_sums_are_exact(name, make, tmp_path):
    weight = make(SHAPES[name][0])
    layer = Layer(tmp_path, name, weight)
    pairs = codes_in_order(layer.codes)
    assert np.abs(pairs).max() <= 127
    # No scale is wider than it must be, and each weight has the code next to it.
    tight = np.abs(pairs).max(axis=(1, 2))
    if name not in DEPTHWISE:
        assert np.abs(pairs.sum(axis=2)).max() <= 128  # 255 * 128 < 2^15
        tight = np.maximum(tight, np.abs(pairs.sum(axis=2)).max(axis=1))
    alive = np.abs(weight).reshape(len(weight), -1).max(axis=1) > 1e-30
    assert (tight[alive] >= 126).all()
    scales = layer.scales.reshape(-1, *[1] * (weight.ndim - 1))
    assert (np.abs(layer.codes * scales - weight) <= 0.5001 * scales).all()
    np.testing.assert_allclose(layer.bias_scales, layer.input_scale * layer.scales, rtol=1e-6)
    if layer.bias_codes.any():
        real = layer.bias_codes * layer.bias_scales.astype(np.float64)
        assert (np.abs(real - layer.bias) <= 0.51 * layer.bias_scales + 1e-7).all()
    assert np.abs(layer.bias_codes.astype(np.int64)).max() <= 2**29
    rng = np.random.default_rng(2)
    for x in (np.full(layer.shape, 255, np.uint8), rng.integers(0, 256, layer.shape, np.uint8)):
        np.testing.assert_array_equal(layer.run(x), layer.exact(x))


@pytest.mark.parametrize("name", ["1x1", "3x3", "grouped", "two of each channel", "Gemm"])
def test_full_codes_saturate_without_vnni(name, tmp_path):
    """A control: the same test would see a saturated sum."""
    isa = set(read_cpu().isa)
    if "avx2" not in isa or isa & {"avx_vnni", "avx512_vnni", "amx_int8"}:
        pytest.skip("this processor adds int8 products in int32")
    layer = Layer(tmp_path, name, equal(SHAPES[name][0]), grid="full")
    assert (layer.codes == 127).all()
    x = np.full(layer.shape, 255, np.uint8)
    assert (layer.run(x) < layer.exact(x)).all()


@pytest.mark.parametrize("biases", [("b0", "b1"), ("b1", "b1")])
def test_a_weight_that_two_layers_share(biases, tmp_path):
    """Both biases fit, and both layers stay next to float32."""
    weight = random((8, 8, 1, 1))
    weight[0] *= 1e-9  # its biases need a wider scale
    names = ["x", "a", "y"]
    values = {"b0": np.full(8, 0.5, np.float32), "b1": np.full(8, 40, np.float32)}
    nodes = [
        helper.make_node("Conv", [source, "w", bias], [result], name=f"to {result}")
        for bias, (source, result) in zip(biases, itertools.pairwise(names), strict=True)
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 8, 4, 4]) for n in "xy"]
    constants = [numpy_helper.from_array(values[name], name) for name in sorted({*biases})]
    constants.append(numpy_helper.from_array(weight, "w"))
    graph = helper.make_graph(nodes, "shared", ends[:1], ends[1:], constants)
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "fp32.onnx")
    x = np.random.default_rng(0).random((1, 8, 4, 4)).astype(np.float32)
    quantize_onnx(tmp_path / "fp32.onnx", tmp_path / "int8.onnx", [x], method="minmax")
    runs = [
        ort.InferenceSession(tmp_path / f, providers=["CPUExecutionProvider"]).run(None, {"x": x})
        for f in ("fp32.onnx", "int8.onnx")
    ]
    assert np.abs(runs[0][0] - runs[1][0]).max() < 0.02 * np.abs(runs[0][0]).max()


@pytest.mark.parametrize("grid", ["pairs", "full"])
@pytest.mark.parametrize("make", WEIGHTS)
@pytest.mark.parametrize("name", [*CONVOLUTIONS, *DEPTHWISE])
def test_optimised_rounding_ends_on_the_grid_that_is_found_again(name, make, grid):
    shape, groups = SHAPES[name]
    inputs = shape[1] * groups
    conv = nn.Conv2d(inputs, shape[0], shape[2:], groups=groups)
    conv.weight = nn.Parameter(torch.from_numpy(make(shape)))
    mixing = torch.randn(inputs, inputs, generator=torch.Generator().manual_seed(0))
    images = torch.rand(8, inputs, 5, 5, generator=torch.Generator().manual_seed(1))
    optimise_rounding(
        nn.Sequential(conv), [torch.einsum("ji,bihw->bjhw", mixing, images)], weights=grid
    )
    weight = conv.weight.detach().numpy()
    grid = "full" if name in DEPTHWISE else grid
    scales = channel_scales(weight, grid)
    scales = np.where(scales > 0, scales, np.float32(1)).reshape(-1, 1, 1, 1)
    codes = np.rint(weight / scales)
    np.testing.assert_array_equal(codes * scales, weight)
    pairs = codes_in_order(codes)
    assert np.abs(pairs).max() <= 127
    if grid == "pairs":
        assert np.abs(pairs.sum(axis=2)).max() <= 127


def test_unfused_a_file_with_full_codes_gives_exact_sums_here_too(tmp_path):
    """What an export for processors with exact sums is measured by, whatever measures it."""
    layer = Layer(tmp_path, "3x3", equal(SHAPES["3x3"][0]), grid="full")
    x = np.full(layer.shape, 255, np.uint8)
    (found,) = TensorRunner(str(tmp_path / "int8.onnx"), fused=False).run([x])
    np.testing.assert_array_equal(found, layer.exact(x))
