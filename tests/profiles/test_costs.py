"""Costs against hand-counted cases, brute force, torch's counter and published totals."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from mnv4_deploy.profiles.costs.group import group_costs, unknown_kinds
from mnv4_deploy.profiles.costs.model_time import model_time
from mnv4_deploy.profiles.costs.table import COSTS
from mnv4_deploy.profiles.graph.read import read_graph_of
from mnv4_deploy.profiles.records.graph import Attribute, ModelGraph, OpCost, Operator, Tensor

Shape = tuple[int, ...]


def group_cost(graph: ModelGraph, op_indices: Sequence[int]) -> OpCost | None:
    return group_costs(graph, (op_indices,))[0]


class Net:
    """Writes a graph down: ``net.op(kind, inputs, (shape, ...))`` returns the output names."""

    def __init__(self, file_format: str = "onnx") -> None:
        self.format = file_format
        self.tensors: dict[str, Tensor] = {}
        self.ops: list[Operator] = []
        self.inputs: list[str] = []

    def add(self, name: str, shape: Shape, dtype: str = "float32", *, weight: bool = False) -> str:
        self.tensors[name] = Tensor(name, shape, dtype, weight)
        return name

    def op(
        self,
        kind: str,
        inputs: Sequence[str],
        shape: Shape | Sequence[Shape],
        dtype: str = "float32",
        **attributes: Attribute,
    ) -> str:
        several = list(shape) if shape and isinstance(shape[0], tuple) else [shape]
        outputs = [
            self.add(f"t{len(self.ops)}.{i}", tuple(s), dtype)  # type: ignore[arg-type]
            for i, s in enumerate(several)
        ]
        order = list(self.tensors)
        self.ops.append(
            Operator(
                len(self.ops),
                kind,
                outputs[0],
                tuple(order.index(n) if n else -1 for n in inputs),
                tuple(order.index(n) for n in outputs),
                attributes,
            )
        )
        return outputs[0]

    def graph(self, *outputs: str) -> ModelGraph:
        order = list(self.tensors)
        return ModelGraph(
            self.format,  # type: ignore[arg-type]
            tuple(self.tensors.values()),
            tuple(self.ops),
            (),
            tuple(order.index(n) for n in outputs),
        )


def single(
    kind: str,
    inputs: Sequence[tuple[Shape, str] | tuple[Shape, str, str]],
    output: Shape | Sequence[Shape],
    dtype: str = "float32",
    *,
    file_format: str = "",
    **attributes: Attribute,
) -> OpCost:
    """The cost of one operator; an input is (shape, "x" or "w" for a weight[, type]).

    ``file_format`` is by default the one whose names are spelled as ``kind`` is.
    """
    net = Net(file_format or ("tflite" if kind.isupper() else "onnx"))
    names = []
    for at, (shape, role, *rest) in enumerate(inputs):
        name = net.add(f"i{at}", shape, rest[0] if rest else "float32", weight=role == "w")
        names.append("" if role == "" else name)
    net.op(kind, names, output, dtype, **attributes)
    graph = net.graph(*[f"t0.{i}" for i in range(len(net.tensors) - len(inputs))])
    cost = group_cost(graph, (0,))
    assert cost is not None
    return cost


X = (1, 8, 6, 4)  # 192 elements, NHWC or NCHW as the case reads it
PRODUCTS = [
    # kind, inputs, output, attributes, MACs counted by hand
    ("CONV_2D", [(X, "x"), ((5, 3, 3, 4), "w"), ((5,), "w")], (1, 8, 6, 5), {}, 240 * 36),
    ("CONV_2D", [(X, "x"), ((6, 3, 3, 2), "w"), ((6,), "w")], (1, 4, 3, 6), {}, 72 * 18),
    ("DEPTHWISE_CONV_2D", [(X, "x"), ((1, 3, 5, 8), "w"), ((8,), "w")], (1, 8, 6, 8), {}, 5760),
    ("CONV_3D", [((1, 4, 4, 4, 2), "x"), ((3, 3, 3, 2, 5), "w")], (1, 2, 2, 2, 5), {}, 40 * 54),
    (
        "TRANSPOSE_CONV",
        [((4,), "w", "int32"), ((3, 2, 2, 4), "w"), (X, "x")],
        (1, 16, 12, 3),
        {},
        192 * 12,
    ),
    ("Convolution2DTransposeBias", [(X, "x"), ((3, 2, 2, 4), "w")], (1, 16, 12, 3), {}, 192 * 12),
    ("FULLY_CONNECTED", [((2, 7), "x"), ((5, 7), "w"), ((5,), "w")], (2, 5), {}, 70),
    ("BATCH_MATMUL", [((3, 4, 5), "x"), ((3, 5, 6), "x")], (3, 4, 6), {}, 360),
    ("BATCH_MATMUL", [((3, 5, 4), "x"), ((3, 5, 6), "x")], (3, 4, 6), {"adj_x": True}, 360),
    ("Conv", [((1, 4, 8, 6), "x"), ((5, 4, 3, 3), "w")], (1, 5, 8, 6), {"group": 1}, 240 * 36),
    ("Conv", [((1, 4, 8, 6), "x"), ((6, 2, 3, 3), "w")], (1, 6, 4, 3), {"group": 2}, 72 * 18),
    ("Conv", [((1, 4, 8, 6), "x"), ((4, 1, 5, 5), "w")], (1, 4, 8, 6), {"group": 4}, 192 * 25),
    ("ConvTranspose", [((1, 4, 8, 6), "x"), ((4, 3, 2, 2), "w")], (1, 3, 16, 12), {}, 192 * 12),
    ("Gemm", [((2, 7), "x"), ((7, 5), "w")], (2, 5), {}, 70),
    ("Gemm", [((7, 2), "x"), ((7, 5), "w")], (2, 5), {"transA": 1}, 70),
    ("MatMul", [((2, 3, 4, 5), "x"), ((5, 6), "x")], (2, 3, 4, 6), {}, 720),
    ("MatMul", [((5,), "x"), ((5,), "x")], (), {}, 5),
    ("FusedMatMul", [((3, 5, 4), "x"), ((3, 5, 6), "x")], (3, 4, 6), {"transA": 1}, 360),
    ("MatMulInteger", [((4, 5), "x", "uint8"), ((5, 6), "w", "int8")], (4, 6), {}, 120),
    (
        "Einsum",
        [((2, 3, 4, 5), "x"), ((2, 6, 5), "x")],
        (2, 3, 4, 6),
        {"equation": "bhnd,bpd->bhnp"},
        720,
    ),
    (
        "Einsum",
        [((2, 3, 4, 5), "x"), ((5, 6), "x")],
        (2, 3, 4, 6),
        {"equation": "...d, dp -> ...p"},
        720,
    ),
    (
        "GRU",  # 7 steps, batch 2, 3 in, 4 hidden, both directions: 14 * (2*12*3 + 2*12*4)
        [((7, 2, 3), "x"), ((2, 12, 3), "w"), ((2, 12, 4), "w")],
        (7, 2, 2, 4),
        {},
        14 * 168,
    ),
]


@pytest.mark.parametrize(("kind", "inputs", "output", "attributes", "macs"), PRODUCTS)
def test_products_by_hand(
    kind: str,
    inputs: Sequence[tuple[Shape, str]],
    output: Shape,
    attributes: Mapping[str, Attribute],
    macs: int,
) -> None:
    assert single(kind, inputs, output, **attributes).macs == macs


V = [(X, "x")]
OTHERS = [
    ("RELU", V, X, {}, 192),
    ("RELU6", V, X, {}, 384),
    ("Clip", [*V, ((), "w"), ((), "w")], X, {}, 384),
    ("HARD_SWISH", V, X, {}, 960),
    ("Sigmoid", V, X, {}, 768),
    ("Gelu", V, X, {}, 960),
    ("Gelu", V, X, {"approximate": "tanh"}, 1728),
    ("GELU", V, X, {"approximate": True}, 1728),
    ("SOFTMAX", V, X, {}, 960),
    ("ADD", [*V, ((4,), "x")], X, {}, 192),
    ("ADD", [*V, (X, "x")], X, {"fused_activation_function": "RELU"}, 384),
    ("Add", [((8, 1), "x"), ((1, 6), "x")], (8, 6), {}, 48),
    ("Greater", [*V, ((), "w")], X, {}, 192),
    ("Where", [(X, "x", "bool"), (X, "x"), (X, "x")], X, {}, 192),
    ("Sum", [(X, "x")] * 3, X, {}, 384),
    ("Max", [(X, "x")] * 2, X, {}, 192),
    ("Mean", [(X, "x")] * 3, X, {}, 576),
    # Windows: 2x3 = 5 additions and a division, 5 comparisons; means and sums over 8x6.
    ("AVERAGE_POOL_2D", V, (1, 4, 2, 4), {"filter_height": 2, "filter_width": 3}, 32 * 6),
    ("MAX_POOL_2D", V, (1, 4, 2, 4), {"filter_height": 2, "filter_width": 3}, 32 * 5),
    ("L2_POOL_2D", V, (1, 4, 2, 4), {"filter_height": 2, "filter_width": 3}, 32 * 13),
    ("MaxPool", V, (1, 8, 3, 2), {"kernel_shape": (2, 2)}, 48 * 3),
    ("GlobalAveragePool", [((1, 4, 8, 6), "x")], (1, 4, 1, 1), {}, 4 * 48),
    ("GlobalMaxPool", [((1, 4, 8, 6), "x")], (1, 4, 1, 1), {}, 4 * 47),
    ("MEAN", [*V, ((2,), "w", "int32")], (1, 4), {}, 4 * 48),
    ("SUM", [*V, ((2,), "w", "int32")], (1, 4), {}, 4 * 47),
    ("ReduceL2", V, (1, 8, 6), {}, 48 * (4 + 3 + 1)),
    ("ArgMax", V, (1, 8, 6), {}, 48 * 3),
    ("TopK", V, (1, 8, 6, 2), {}, 192),
    # Norms.
    ("BatchNormalization", [(X, "x"), *[((8,), "w")] * 4], X, {}, 384),
    ("LayerNormalization", V, X, {}, 7 * 192),
    ("InstanceNormalization", V, X, {}, 7 * 192),
    ("GroupNormalization", V, X, {}, 7 * 192),
    ("L2_NORMALIZATION", V, X, {}, 3 * 192),
    ("LRN", V, X, {"size": 5}, 9 * 192),
    ("LOCAL_RESPONSE_NORMALIZATION", V, X, {"radius": 2}, 9 * 192),
    # Resizing to twice the sides: nothing, or four products and three additions.
    ("RESIZE_NEAREST_NEIGHBOR", V, (1, 16, 12, 4), {}, 0),
    ("RESIZE_BILINEAR", V, (1, 16, 12, 4), {}, 768 * 7),
    ("Resize", V, (1, 8, 12, 8), {"mode": "linear"}, 768 * 7),
    ("Resize", V, (1, 8, 12, 8), {}, 0),
    ("QUANTIZE", V, X, {}, 5 * 192),
    ("DEQUANTIZE", [(X, "x", "int8")], X, {}, 2 * 192),
    ("Cast", V, X, {}, 192),
    ("CONCATENATION", [(X, "x"), (X, "x")], (1, 8, 6, 8), {}, 0),
    ("Transpose", V, (1, 4, 8, 6), {}, 0),
    ("CONV_2D", [(X, "x"), ((5, 1, 1, 4), "w")], (1, 8, 6, 5),
     {"fused_activation_function": "RELU6"}, 480),
    ("FusedConv", [((1, 4, 8, 6), "x"), ((5, 4, 1, 1), "w"), ((5,), "w"), ((1, 5, 8, 6), "x")],
     (1, 5, 8, 6), {"activation": "Relu"}, 480),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "inputs", "output", "attributes", "ops"), OTHERS)
def test_other_operations_by_hand(
    kind: str,
    inputs: Sequence[tuple[Shape, str]],
    output: Shape,
    attributes: Mapping[str, Attribute],
    ops: int,
) -> None:
    assert single(kind, inputs, output, **attributes).other_ops == ops


BYTES = [
    # kind, inputs, output, type written -> (weights, read, written)
    ("CONV_2D", [(X, "x", "int8"), ((5, 3, 3, 4), "w", "int8"), ((5,), "w", "int32")],
     (1, 8, 6, 5), "int8", (180 + 20, 192, 240)),
    ("FULLY_CONNECTED", [((2, 7), "x"), ((5, 7), "w", "int4"), ((), "")], (2, 5), "float32",
     (18, 56, 40)),
    ("TRANSPOSE_CONV", [((4,), "w", "int32"), ((3, 2, 2, 4), "w"), (X, "x")], (1, 16, 12, 3),
     "float32", (192, 768, 2304)),
    ("QLinearConv", [((1, 4, 8, 6), "x", "uint8"), ((), "w"), ((), "w", "uint8"),
                     ((5, 4, 1, 1), "w", "int8"), ((5,), "w"), ((5,), "w", "int8"), ((), "w"),
                     ((), "w", "uint8"), ((5,), "w", "int32")],
     (1, 5, 8, 6), "uint8", (20 + 20, 192, 240)),
    ("QLinearConcat", [((), "w"), ((), "w", "uint8"), ((3, 2), "x", "uint8"), ((), "w"),
                       ((), "w", "uint8"), ((3, 4), "x", "uint8"), ((), "w"),
                       ((), "w", "uint8")], (3, 6), "uint8", (0, 18, 18)),
    ("MatMulIntegerToFloat", [((4, 5), "x", "uint8"), ((5, 6), "w", "int8"), ((), "x"),
                              ((6,), "w"), ((), "x", "uint8"), ((6,), "w", "int8"),
                              ((6,), "w")], (4, 6), "float32", (30 + 24, 20, 96)),
    # Only the rows that are looked up.
    ("GATHER", [((1000, 16), "w"), ((3,), "x", "int32")], (3, 16), "float32", (192, 12, 192)),
    ("EMBEDDING_LOOKUP", [((3,), "x", "int32"), ((1000, 16), "w")], (3, 16), "float32",
     (192, 12, 192)),
    ("Slice", [((10, 10), "x"), *[((2,), "w", "int64")] * 3], (2, 5), "float32", (0, 40, 40)),
    ("STRIDED_SLICE", [((10, 10), "x"), *[((2,), "w", "int32")] * 3], (2, 5), "float32",
     (0, 40, 40)),
    ("SPLIT", [((), "w", "int32"), ((2, 6), "x")], ((2, 3), (2, 3)), "float32", (0, 48, 48)),
    ("Split", [((2, 6), "x"), ((2,), "w", "int64")], ((2, 2), (2, 4)), "float32", (0, 48, 48)),
    ("Transpose", [((2, 6), "x")], (6, 2), "float32", (0, 48, 48)),
    ("PAD", [((2, 6), "x"), ((2, 2), "w", "int32")], (4, 8), "float32", (0, 48, 128)),
    ("Expand", [((1, 6), "x"), ((2,), "w", "int64")], (5, 6), "float32", (0, 24, 120)),
    ("Resize", [((1, 1, 2, 2), "x"), ((), ""), ((4,), "w")], (1, 1, 4, 4), "float32",
     (0, 16, 64)),
    ("MUL", [(X, "x"), ((4,), "w")], X, "float32", (16, 768, 768)),
    ("Mul", [(X, "x"), (X, "x")], X, "float32", (0, 1536, 768)),
    ("BatchNormalization", [(X, "x"), *[((8,), "w")] * 4], X, "float32", (128, 768, 768)),
    ("Clip", [(X, "x"), ((), "w"), ((), "w")], X, "float32", (0, 768, 768)),
    ("QuantizeLinear", [(X, "x"), ((), "w"), ((), "w", "int8")], X, "int8", (0, 768, 192)),
    ("RESHAPE", [(X, "x"), ((2,), "w", "int32")], (8, 24), "float32", (0, 0, 0)),
    ("Flatten", [(X, "x")], (1, 192), "float32", (0, 0, 0)),
    ("Shape", [(X, "x")], (4,), "int64", (0, 0, 32)),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "inputs", "output", "dtype", "moved"), BYTES)
def test_bytes_by_hand(
    kind: str,
    inputs: Sequence[tuple[Shape, str]],
    output: Shape,
    dtype: str,
    moved: tuple[int, int, int],
) -> None:
    cost = single(kind, inputs, output, dtype)
    assert (cost.weight_bytes, cost.read_bytes, cost.written_bytes) == moved


def test_a_tensor_read_twice_moves_once() -> None:
    net = Net()
    x = net.add("x", X)
    y = net.op("Mul", [x, x], X)
    graph = net.graph(y)
    assert group_cost(graph, (0,)) == OpCost(0, 192, 0, 768, 768)


def quantized_conv(net: Net, x: str) -> str:
    """DQ(x), DQ(w), DQ(b), Conv, Relu, Q: five operators before Q, output int8."""
    for name in ("s", "bs"):
        net.add(name, (), weight=True)
    net.add("w", (5, 4, 1, 1), "int8", weight=True)
    net.add("b", (5,), "int32", weight=True)
    image = net.op("DequantizeLinear", [x, "s"], (1, 4, 8, 6))
    w = net.op("DequantizeLinear", ["w", "s"], (5, 4, 1, 1))
    b = net.op("DequantizeLinear", ["b", "bs"], (5,))
    conv = net.op("Conv", [image, w, b], (1, 5, 8, 6))
    relu = net.op("Relu", [conv], (1, 5, 8, 6))
    return net.op("QuantizeLinear", [relu, "s"], (1, 5, 8, 6), "int8")


def test_a_quantized_group_moves_the_stored_integers() -> None:
    net = Net()
    y = quantized_conv(net, net.add("x", (1, 4, 8, 6), "int8"))
    graph = net.graph(y)
    assert group_cost(graph, range(6)) == OpCost(
        macs=240 * 4,
        other_ops=240,  # the ReLU; in integers there is nothing to convert
        weight_bytes=20 + 5 * 4,
        read_bytes=192,
        written_bytes=240,
    )


def test_a_dequantize_shared_between_quantized_groups_brings_integers_to_both() -> None:
    net = Net()
    quantized_conv(net, net.add("x", (1, 4, 8, 6), "int8"))
    other = net.op("MaxPool", ["t0.0"], (1, 4, 4, 3), kernel_shape=(2, 2))
    y = net.op("QuantizeLinear", [other, "s"], (1, 4, 4, 3), "int8")
    first, second = group_costs(net.graph("t5.0", y), [range(6), (6, 7)])
    assert first == OpCost(960, 240, 40, 192, 240)  # the float image is nowhere
    assert second == OpCost(0, 48 * 3, 0, 192, 48)


def test_conversions_that_run_by_themselves_cost_their_work() -> None:
    net = Net()
    quantized_conv(net, net.add("x", (1, 4, 8, 6), "int8"))
    graph = net.graph("t5.0")
    alone = group_costs(graph, [(0,), (1,), (3, 4), (5,)])
    assert alone == (
        OpCost(0, 384, 0, 192, 768),
        OpCost(0, 40, 20, 0, 80),
        OpCost(960, 240, 80 + 20, 768, 960),  # float weights: made at their own size
        OpCost(0, 1200, 0, 960, 240),
    )


def test_a_quantized_reshape_moves_nothing() -> None:
    net = Net()
    net.add("s", (), weight=True)
    a = net.op("DequantizeLinear", [net.add("x", X, "int8"), "s"], X)
    b = net.op("Reshape", [a, net.add("shape", (2,), "int64", weight=True)], (8, 24))
    y = net.op("QuantizeLinear", [b, "s"], (8, 24), "int8")
    assert group_cost(net.graph(y), (0, 1, 2)) == OpCost()


def test_constants_pass_through_what_is_computed_at_load() -> None:
    """fp16 weights of TFLite: the conversion costs nothing, the product reads float32."""
    net = Net("tflite")
    x, w = net.add("x", (2, 7)), net.add("w", (5, 7), "float16", weight=True)
    wide = net.op("DEQUANTIZE", [w], (5, 7))
    y = net.op("FULLY_CONNECTED", [x, wide, ""], (2, 5))
    graph = net.graph(y)
    assert group_costs(graph, [(0,), (1,), (0, 1)]) == (
        OpCost(),
        OpCost(70, 0, 140, 56, 40),
        OpCost(70, 0, 70, 56, 40),
    )


def test_views_inside_a_group_are_the_same_memory() -> None:
    net = Net()
    x = net.add("x", (2, 3, 4))
    flat = net.op("Reshape", [x, net.add("shape", (2,), "int64", weight=True)], (6, 4))
    product = net.op("MatMul", [flat, net.add("w", (4, 5), weight=True)], (6, 5))
    back = net.op("Reshape", [product, "shape"], (2, 3, 5))
    graph = net.graph(product, back)
    assert group_cost(graph, (0, 1, 2)) == OpCost(120, 0, 80, 96, 120)


def test_only_what_leaves_a_group_is_written() -> None:
    net = Net()
    a = net.op("Relu", [net.add("x", (10,))], (10,))
    b = net.op("Exp", [a], (10,))
    values = net.op("TopK", [b, net.add("k", (1,), "int64", weight=True)], ((2,), (2,)))
    graph = net.graph(values)
    assert group_cost(graph, (0, 1)) == OpCost(0, 20, 0, 40, 40)
    assert group_cost(graph, (0,)) == OpCost(0, 10, 0, 40, 40)
    # The indices that nobody uses are not counted.
    assert group_cost(graph, (2,)) == OpCost(0, 10, 0, 40, 8)
    assert group_cost(graph, ()) == OpCost()


def test_unknown_kinds_have_no_cost_and_are_named() -> None:
    net = Net()
    a = net.op("Warp", [net.add("x", (10,))], (10,))
    b = net.op("Relu", [a], (10,))
    graph = net.graph(net.op("Warp", [b], (10,)))
    assert group_cost(graph, (0,)) is None
    assert group_cost(graph, (0, 1)) is None
    assert group_cost(graph, (1,)) is not None
    assert unknown_kinds(graph) == ("Warp",)


@pytest.mark.parametrize("kind", sorted(COSTS))
def test_no_damaged_operator_raises(kind: str) -> None:
    """Without operands, with absent ones, with scalars, and as its own input."""
    net = Net()
    net.add("x", ())
    net.op(kind, [], ())
    net.op(kind, [""] * 3, ())
    net.op(kind, ["x"] * 3, ())
    graph = net.graph("t0.0")
    loop = Operator(3, kind, "loop", (1, 1, 1), (1,))
    graph = ModelGraph("onnx", graph.tensors, (*graph.ops, loop), (), (1,))
    for cost in group_costs(graph, [(0,), (1,), (2,), (3,), (2, 3)]):
        assert cost is None or min(cost.macs, cost.other_ops, cost.bytes) >= 0


@pytest.mark.parametrize("seed", range(8))
def test_random_convolutions_by_brute_force_and_by_torch(seed: int, tmp_path: Path) -> None:
    """A loop over every output and tap, and torch's own counter, on the file onnx makes."""
    torch = pytest.importorskip("torch")
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from torch.utils.flop_counter import FlopCounterMode

    rng = np.random.default_rng(seed)
    groups, per_group, per_out = (int(n) for n in rng.integers(1, 4, 3))
    kernel, stride, pad = rng.integers(1, 4, 2), int(rng.integers(1, 3)), int(rng.integers(0, 2))
    x = torch.zeros(int(rng.integers(1, 3)), groups * per_group, *map(int, rng.integers(5, 9, 2)))
    conv = torch.nn.Conv2d(
        groups * per_group, groups * per_out, tuple(map(int, kernel)), stride, pad, groups=groups
    )
    with FlopCounterMode(display=False) as counter:
        y = conv(x)
    by_loop = 0
    for _ in itertools.product(*map(range, y.shape)):
        by_loop += per_group * int(kernel[0]) * int(kernel[1])

    node = onnx.helper.make_node(
        "Conv", ["x", "w", "b"], ["y"], strides=[stride] * 2, pads=[pad] * 4, group=groups
    )
    value = onnx.helper.make_tensor_value_info
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [node],
            "g",
            [value("x", 1, x.shape)],
            [value("y", 1, None)],
            [
                onnx.numpy_helper.from_array(p.detach().numpy(), n)
                for n, p in (("w", conv.weight), ("b", conv.bias))
            ],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 17)],
        ir_version=9,
    )
    onnx.save(model, tmp_path / "conv.onnx")
    graph = read_graph_of(tmp_path / "conv.onnx")
    cost = group_cost(graph, (0,))
    assert cost is not None
    assert cost.macs == by_loop == counter.get_total_flops() // 2
    parameters = sum(p.numel() for p in conv.parameters())
    assert cost.bytes == 4 * (parameters + x.numel() + y.numel())


def test_conv_s_exported_costs_what_the_paper_counts(tmp_path: Path) -> None:
    """The published MACs of MobileNetV4-Conv-S at 224, and layer by layer torch's shapes."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    from mnv4_deploy.models import zoo
    from mnv4_deploy.models.layer_costs import layer_costs

    path = tmp_path / "conv-s.onnx"
    module = zoo.build("conv-s")
    torch.onnx.export(
        module, (torch.zeros(1, 3, 224, 224),), str(path), dynamo=False, do_constant_folding=True
    )
    graph = read_graph_of(path)
    assert unknown_kinds(graph) == ()
    found = group_costs(graph, [(op.index,) for op in graph.ops])
    assert sum(cost.macs for cost in found if cost) == 186_005_568
    products = [
        (cost.macs, cost.bytes - 4 * graph.tensors[op.inputs[-1]].elements)  # without the bias
        for op, cost in zip(graph.ops, found, strict=True)
        if cost and cost.macs
    ]
    expected = [(c.macs, 4 * c.elements) for c in layer_costs(module, (224, 224))]
    assert products == expected
    assert model_time(products, 0.0) == 186_005_568


PUBLISHED = {  # 1.0 MobileNetV2 has 300.8 M MACs, 0.25 MobileNetV1 41 M (their papers)
    "tf2_mobilenet_v2_1.0_224_ptq.tflite": 300_775_552,
    "mobilenet_v1_0.25_224_float.tflite": 41_030_528,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files(name: str, pytestconfig: pytest.Config) -> None:
    path = pytestconfig.rootpath.parent / "shared" / "data" / "third-party" / name
    if not path.exists():
        pytest.skip("the third-party models are not here")
    graph = read_graph_of(path)
    costs = group_costs(graph, [(op.index,) for op in graph.ops])
    assert unknown_kinds(graph) == ()
    assert sum(cost.macs for cost in costs if cost) == PUBLISHED[name]


def test_model_time_is_the_slower_of_the_two_for_each_layer() -> None:
    layers = [(1000, 10), (100, 10)]
    assert model_time(layers, 0.0) == 1100
    assert model_time(layers, 31.2) == 1000 + 312
    assert model_time(layers, 200.0) == 2000 + 2000
    assert model_time([], 31.2) == 0.0
