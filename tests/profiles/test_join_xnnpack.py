"""Events of the real runtime joined with planted graphs: what each operator must have run as."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.profiles.planted_tflite import (
    Joined,
    add,
    conv,
    cumulative,
    integers,
    pad,
    run,
    tensor,
    unary,
)

if TYPE_CHECKING:
    from tests.profiles.conftest import TfliteBuilder

schema = pytest.importorskip("ai_edge_litert.schema_py_generated")


def test_padding_and_activation_are_in_the_layer_of_their_convolution(
    tflite: TfliteBuilder, tmp_path: Path
) -> None:
    x = tensor(tflite, "x", (1, 8, 8, 4))
    last = unary(tflite, "RELU", conv(tflite, pad(tflite, x, "p"), "c"), "r")
    joined = run(tflite, tmp_path, (x,), (conv(tflite, last, "d", depthwise=True),))
    assert joined.rows == [
        (("PAD", "CONV_2D", "RELU"), ("Convolution",)),
        (("DEPTHWISE_CONV_2D",), ("Convolution",)),
    ]
    layer = joined.of(1)
    assert (layer.op_type, layer.name, layer.compute) == ("CONV_2D", "c", "float32")
    assert (layer.backend, layer.partition) == ("xnnpack", 0)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_only_the_second_of_two_equal_paddings_ran(
    dtype: str, tflite: TfliteBuilder, tmp_path: Path
) -> None:
    # The second feeds two convolutions, so XNNPACK cannot fuse it.
    x = tensor(tflite, "x", (1, 8, 8, 8), dtype)
    c = conv(tflite, pad(tflite, x, "p1", dtype), "c1", dtype=dtype)
    shared = pad(tflite, c, "p2", dtype)
    outs = [
        conv(tflite, shared, "c2", depthwise=True, dtype=dtype),
        conv(tflite, shared, "c3", dtype=dtype),
    ]
    joined = run(tflite, tmp_path, (x,), outs)
    assert joined.rows == [
        (("PAD", "CONV_2D"), ("Convolution",)),
        (("PAD",), ("Constant Pad",)),
        (("DEPTHWISE_CONV_2D",), ("Convolution",)),
        (("CONV_2D",), ("Convolution",)),
    ]
    kernels = [joined.timings[joined.of(i).timing_indices[0]].tag for i in (3, 4)]
    assert [tag.split()[-1] for tag in kernels] == ["DWConv", "IGEMM"]


def test_only_the_first_of_two_equal_paddings_ran(tflite: TfliteBuilder, tmp_path: Path) -> None:
    x = tensor(tflite, "x", (1, 8, 8, 8))
    shared = pad(tflite, x, "p1")
    first = conv(tflite, shared, "c1", depthwise=True)
    last = conv(tflite, pad(tflite, first, "p2"), "c2")
    joined = run(tflite, tmp_path, (x,), (last, shared))
    assert joined.of(0).timing_indices and joined.of(0).op_indices == (0,)
    assert joined.of(2).op_indices == (2, 3)


def test_activation_behind_an_addition_runs_on_its_own(
    tflite: TfliteBuilder, tmp_path: Path
) -> None:
    x, y = (tensor(tflite, name, (1, 8, 8, 4)) for name in "xy")
    joined = run(tflite, tmp_path, (x, y), (unary(tflite, "RELU", add(tflite, x, y, "s"), "r"),))
    assert joined.rows == [(("ADD",), ("Add",)), (("RELU",), ("Clamp",))]


def test_activation_inside_an_addition_belongs_to_it(
    tflite: TfliteBuilder, tmp_path: Path
) -> None:
    x, y = (tensor(tflite, name, (1, 8, 8, 4)) for name in "xy")
    inner = add(tflite, x, y, "s", activation=schema.ActivationFunctionType.RELU)
    joined = run(tflite, tmp_path, (x, y), (unary(tflite, "LOGISTIC", inner, "l"),))
    kinds = [kinds for kinds, _ in joined.rows]
    assert kinds == [("ADD",), ("LOGISTIC",)]
    assert joined.rows[0][1] in (("Add",), ("Add", "Clamp"))
    assert joined.rows[1][1] == ("Sigmoid",)


@pytest.mark.parametrize("functions", [["GELU"], ["HARD_SWISH"], ["RELU"], ["GELU", "LOGISTIC"]])
def test_functions_between_conversions_are_one_table(
    functions: list[str], tflite: TfliteBuilder, tmp_path: Path
) -> None:
    x = tensor(tflite, "x", (1, 8, 8, 8), "int8")
    current = conv(tflite, x, "c1", dtype="int8")
    for i, kind in enumerate(functions):
        unpacked = tensor(tflite, f"unpacked{i}", tflite.graph.tensors[current].shape)
        tflite.op("DEQUANTIZE", (current,), (unpacked,), version=2)
        function = unary(tflite, kind, unpacked, f"function{i}")
        current = tensor(tflite, f"packed{i}", tflite.graph.tensors[function].shape, "int8")
        tflite.op("QUANTIZE", (function,), (current,), version=2)
    joined = run(tflite, tmp_path, (x,), (conv(tflite, current, "c2", dtype="int8"),))
    table = tuple(k for kind in functions for k in ("DEQUANTIZE", kind, "QUANTIZE"))
    assert [kinds for kinds, _ in joined.rows] == [("CONV_2D",), table, ("CONV_2D",)]
    assert all(len(kernels) == 1 for _, kernels in joined.rows)
    layer = joined.of(1)
    assert (layer.op_type, layer.name, layer.compute) == (functions[0], "function0", "int8")


def test_conversion_that_others_read_runs(tflite: TfliteBuilder, tmp_path: Path) -> None:
    x = tensor(tflite, "x", (1, 8, 8, 8), "int8")
    unpacked = tensor(tflite, "unpacked", (1, 8, 8, 8))
    tflite.op("DEQUANTIZE", (x,), (unpacked,), version=2)
    outs = [unary(tflite, "GELU", unpacked, "g"), unary(tflite, "TANH", unpacked, "t")]
    joined = run(tflite, tmp_path, (x,), outs)
    assert joined.rows == [
        (("DEQUANTIZE",), ("Convert",)),
        (("GELU",), ("GELU",)),
        (("TANH",), ("TanH",)),
    ]


def test_matrix_product_of_four_dimensions_comes_with_its_reshape(
    tflite: TfliteBuilder, tmp_path: Path
) -> None:
    x = tensor(tflite, "x", (1, 4, 4, 4))
    w = tflite.tensor("w", (8, 64), data=np.ones((8, 64), np.float32))
    out = tensor(tflite, "out", (1, 8))
    tflite.op("FULLY_CONNECTED", (x, w, -1), (out,), "FullyConnectedOptions")
    joined = run(tflite, tmp_path, (x,), (out,))
    assert joined.rows == [(("FULLY_CONNECTED",), ("Static Reshape", "Fully Connected"))]


def test_dynamic_quantization_is_part_of_the_layer(tflite: TfliteBuilder, tmp_path: Path) -> None:
    x = tensor(tflite, "x", (1, 8, 8, 64))
    ones = np.ones((8, 3, 3, 64), np.int8)
    w = tflite.tensor("w", ones.shape, "int8", data=ones, scale=[0.01] * 8)
    bias = tflite.tensor("b", (8,), data=np.zeros(8, np.float32))
    out = tensor(tflite, "out", (1, 6, 6, 8))
    options = {"strideW": 1, "strideH": 1, "padding": schema.Padding.VALID}
    tflite.op("CONV_2D", (x, w, bias), (out,), "Conv2DOptions", version=5, **options)
    joined = run(tflite, tmp_path, (x,), (out,))
    assert joined.rows == [(("CONV_2D",), ("Convert", "Convolution"))]
    assert joined.of(0).compute == "int8 dynamic"


@pytest.mark.parametrize(("adjoint", "before"), [(False, ()), (True, ("Transpose",))])
def test_transposed_left_operand_costs_a_kernel(
    adjoint: bool, before: tuple[str, ...], tflite: TfliteBuilder, tmp_path: Path
) -> None:
    x = tensor(tflite, "x", (2, 8, 16) if adjoint else (2, 16, 8))
    y, out = tensor(tflite, "y", (2, 4, 8)), tensor(tflite, "out", (2, 16, 4))
    tflite.op("BATCH_MATMUL", (x, y), (out,), "BatchMatMulOptions", adjX=adjoint, adjY=True)
    joined = run(tflite, tmp_path, (x, y), (unary(tflite, "NEG", out, "n"),))
    assert joined.rows == [
        (("BATCH_MATMUL",), (*before, "Batch Matrix Multiply")),
        (("NEG",), ("Negate",)),
    ]


def test_first_of_two_reshapes_did_not_run(tflite: TfliteBuilder, tmp_path: Path) -> None:
    x = tensor(tflite, "x", (1, 8, 8, 4))
    current = x
    for shape in ((1, 64, 4), (64, 4)):
        out = tensor(tflite, f"r{len(shape)}", shape)
        options = {"newShape": list(shape)}
        tflite.op(
            "RESHAPE", (current, integers(tflite, shape)), (out,), "ReshapeOptions", **options
        )
        current = out
    joined = run(tflite, tmp_path, (x,), (add(tflite, current, current, "s"),))
    assert joined.rows == [
        (("RESHAPE",), ()),
        (("RESHAPE",), ("Static Reshape",)),
        (("ADD",), ("Add",)),
    ]
    assert joined.of(0).partition == 0 and joined.of(0).backend == "xnnpack"


def test_concatenation_split_and_mean(tflite: TfliteBuilder, tmp_path: Path) -> None:
    x, y = (tensor(tflite, name, (1, 8, 8, 4)) for name in "xy")
    joint = tensor(tflite, "joint", (1, 8, 8, 8))
    tflite.op("CONCATENATION", (x, y), (joint,), "ConcatenationOptions", axis=3)
    halves = [tensor(tflite, f"half{i}", (1, 8, 8, 4)) for i in range(2)]
    tflite.op("SPLIT", (integers(tflite, 3), joint), halves, "SplitOptions", numSplits=2)
    pooled = tensor(tflite, "pooled", (1, 4))
    tflite.op("MEAN", (halves[0], integers(tflite, [1, 2])), (pooled,), "ReducerOptions")
    joined = run(tflite, tmp_path, (x, y), (pooled, halves[1]))
    assert joined.rows == [
        (("CONCATENATION",), ("Copy",)),
        (("SPLIT",), ("Copy",)),
        (("MEAN",), ("Mean",)),
    ]


def test_operator_outside_makes_two_partitions(split_tflite: Path) -> None:
    joined = Joined(split_tflite)
    assert joined.rows == [
        (("CONV_2D",), ("Convolution",)),
        (("CUMSUM",), ("CUMSUM",)),
        (("CONV_2D",), ("Convolution",)),
        (("MEAN",), ("Mean",)),
    ]
    assert [joined.of(i).partition for i in range(4)] == [0, None, 1, 1]
    assert joined.of(1).backend == "builtin"


def test_partitions_that_run_in_another_order_than_the_file(
    tflite: TfliteBuilder, tmp_path: Path
) -> None:
    # The depthwise convolution is last but one in the file, yet ready at once: partition 0.
    x = tensor(tflite, "x", (1, 8, 8, 8))
    outside = cumulative(tflite, conv(tflite, x, "first", same=True), "outside")
    second = conv(tflite, outside, "second", same=True)
    early = conv(tflite, x, "early", depthwise=True, same=True)
    joined = run(tflite, tmp_path, (x,), (add(tflite, second, early, "sum"),))
    assert [joined.of(i).partition for i in range(5)] == [0, None, 1, 0, 1]
    (timing,) = joined.of(3).timing_indices
    assert joined.timings[timing].tag.endswith("DWConv")
    (timing,) = joined.of(2).timing_indices
    assert joined.timings[timing].tag.endswith("IGEMM")


def test_time_lands_on_the_convolutions_that_cost_it(
    tflite: TfliteBuilder, tmp_path: Path
) -> None:
    # Costs differ by more than any noise: 1x1 of 8 channels, 3x3 of 96, 5x5 of 96, 1x1 of 8.
    x = current = tensor(tflite, "x", (1, 32, 32, 8))
    for name, kernel, width in (("a", 1, 8), ("b", 3, 96), ("c", 5, 96), ("d", 1, 8)):
        current = conv(tflite, current, name, kernel=kernel, width=width, same=True)
    path = tflite.write(tmp_path / "sizes.tflite", (x,), (current,))
    joined = Joined(path, runs=9)
    macs = {"a": 64, "b": 9 * 8 * 96, "c": 25 * 96 * 96, "d": 96 * 8}
    times = {layer.name: joined.time_us(layer) for layer in joined.layers if layer.op_indices}
    assert sorted(times, key=times.__getitem__)[-2:] == ["b", "c"]
    assert times["c"] > 5 * times["b"] > 0
    assert max(macs, key=macs.__getitem__) == max(times, key=times.__getitem__)


def test_unpacking_of_float16_weights_takes_no_time(tflite: TfliteBuilder, tmp_path: Path) -> None:
    x = tensor(tflite, "x", (1, 8, 8, 4))
    out = conv(tflite, x, "c")
    packed = np.ones((8, 3, 3, 4), np.float16)
    half = tflite.tensor("half", packed.shape, "int16", data=packed)
    tflite.graph.tensors[half].type = schema.TensorType.FLOAT16
    convolution = tflite.graph.operators.pop()
    unpacked = tflite.tensor("unpacked", packed.shape)
    tflite.op("DEQUANTIZE", (half,), (unpacked,), version=3)
    convolution.inputs[1] = unpacked
    tflite.graph.operators.append(convolution)
    joined = run(tflite, tmp_path, (x,), (out,))
    assert joined.rows == [(("DEQUANTIZE",), ()), (("CONV_2D",), ("Convolution",))]


@pytest.mark.parametrize(
    ("name", "outside", "partitions"),
    [
        ("mobilenet_v1_0.25_224_float.tflite", {"SQUEEZE"}, 2),
        ("tf2_mobilenet_v2_1.0_224_ptq.tflite", {"QUANTIZE", "SOFTMAX"}, 1),
    ],
)
def test_models_of_others(
    name: str, outside: set[str], partitions: int, pytestconfig: pytest.Config
) -> None:
    path = pytestconfig.rootpath.parent / "shared" / "data" / "third-party" / name
    if not path.is_file():
        pytest.skip("the third-party models are not here")
    joined = Joined(path)
    assert {
        k for layer in joined.layers if layer.backend == "builtin" for k in [layer.op_type]
    } == outside
    assert {layer.partition for layer in joined.layers} == {None, *range(partitions)}
    for layer in joined.layers:
        kernels = [joined.timings[i].tag for i in layer.timing_indices]
        if layer.op_type == "DEPTHWISE_CONV_2D":
            assert [k.split()[-1] for k in kernels] == ["DWConv"]
        elif layer.op_type == "CONV_2D":
            (weights,) = (
                joined.graph.tensors[joined.graph.ops[i].inputs[1]] for i in layer.op_indices
            )
            pointwise = weights.shape[1:3] == (1, 1)
            assert kernels[0].startswith("Fully Connected" if pointwise else "Convolution")
        elif layer.backend == "runtime":
            assert layer.op_indices == () and layer.op_type == "runtime"
        else:
            assert len(kernels) == 1 and layer.op_indices
