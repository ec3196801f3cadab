"""Recomputed layers against the real runtime, and explanations against planted sums."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnv4_deploy.layers.quantizations import quantizations
from mnv4_deploy.parity.layer_tally import Evidence
from mnv4_deploy.parity.layers import Watched
from mnv4_deploy.parity.recompute import recompute
from mnv4_deploy.profiles.graph.read import read_graph_of
from mnv4_deploy.profiles.runtimes.tensors import TensorRunner
from mnv4_deploy.profiles.runtimes.timing import example_input
from tests.parity.checks import check, fixed_inputs
from tests.parity.fake_devices import FakeDevice, faulty
from tests.profiles.conftest import TfliteBuilder
from tests.profiles.planted_tflite import conv, integers, tensor

pytestmark = pytest.mark.usefixtures("no_child")
schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
Array = np.ndarray[Any, Any]
Build = Callable[[TfliteBuilder, str], tuple[list[int], int]]


def convolution(*, depthwise: bool, same: bool, stride: int = 1, activation: int = 0) -> Build:
    def build(b: TfliteBuilder, dtype: str) -> tuple[list[int], int]:
        image = tensor(b, "image", (1, 9, 7, 4), dtype)
        out = conv(b, image, "out", same=same, depthwise=depthwise, dtype=dtype)
        options = b.graph.operators[-1].builtinOptions
        options.strideH = options.strideW = stride
        options.fusedActivationFunction = activation
        lost = 0 if same else 2
        sides = [-(-(side - lost) // stride) for side in (9, 7)]
        b.graph.tensors[out].shape = [1, *sides, b.graph.tensors[out].shape[3]]
        if dtype == "int8":
            b.graph.tensors[out].quantization.scale = [0.013]
            b.graph.tensors[out].quantization.zeroPoint = [-3]
            b.graph.tensors[image].quantization.zeroPoint = [5]
        return [image], out

    return build


def two(kind: str, options: str, shapes: tuple[tuple[int, ...], ...], **values: Any) -> Build:
    def build(b: TfliteBuilder, dtype: str) -> tuple[list[int], int]:
        scales = {"scale": 0.05} if dtype == "int8" else {}
        left, right = (
            b.tensor(name, shape, dtype, zero_point=3, **scales)
            for name, shape in zip("ab", shapes, strict=False)
        )
        out = b.tensor("out", shapes[2], dtype, **({"scale": 0.31} if scales else {}))
        b.op(kind, (left, right), (out,), options, **values)
        return [left, right], out

    return build


def fully_connected(b: TfliteBuilder, dtype: str) -> tuple[list[int], int]:
    x = tensor(b, "x", (3, 20), dtype)
    rng = np.random.default_rng(0)
    if dtype == "int8":
        weights = rng.integers(-90, 90, (6, 20)).astype(np.int8)
        w = b.tensor("w", (6, 20), "int8", scale=[0.01] * 6, data=weights)
        bias = b.tensor("b", (6,), "int32", scale=[0.001] * 6, data=np.arange(6, dtype=np.int32))
    else:
        w = b.tensor("w", (6, 20), data=rng.standard_normal((6, 20)).astype(np.float32))
        bias = b.tensor("b", (6,), data=np.arange(6, dtype=np.float32))
    out = tensor(b, "out", (3, 6), dtype)
    b.op("FULLY_CONNECTED", (x, w, bias), (out,), "FullyConnectedOptions")
    return [x], out


def mean(b: TfliteBuilder, dtype: str) -> tuple[list[int], int]:
    x = tensor(b, "x", (1, 5, 5, 3), dtype)
    out = tensor(b, "out", (1, 3), dtype)
    b.op("MEAN", (x, integers(b, [1, 2])), (out,), "ReducerOptions", keepDims=False)
    return [x], out


BUILDS = {
    "conv": convolution(depthwise=False, same=False),
    "conv, same, stride 2": convolution(depthwise=False, same=True, stride=2),
    "conv, relu6": convolution(depthwise=False, same=True, activation=3),
    "depthwise, same": convolution(depthwise=True, same=True),
    "depthwise, stride 2": convolution(depthwise=True, same=False, stride=2),
    "fully connected": fully_connected,
    "mean": mean,
    "add": two("ADD", "AddOptions", ((1, 4, 4, 2), (1, 1, 1, 2), (1, 4, 4, 2))),
    "mul": two("MUL", "MulOptions", ((1, 4, 4, 2), (1, 4, 4, 2), (1, 4, 4, 2))),
    "matmul": two("BATCH_MATMUL", "BatchMatMulOptions", ((2, 4, 9), (2, 9, 5), (2, 4, 5))),
    "matmul, transposed": two(
        "BATCH_MATMUL", "BatchMatMulOptions", ((2, 4, 9), (2, 5, 9), (2, 4, 5)), adjY=True
    ),
}


@pytest.mark.parametrize("dtype", ["int8", "float32"])
@pytest.mark.parametrize("name", BUILDS)
def test_the_runtime_gives_what_the_exact_value_rounds_to(
    tmp_path: Path, name: str, dtype: str
) -> None:
    b = TfliteBuilder()
    sources, out = BUILDS[name](b, dtype)
    path = b.write(tmp_path / "one.tflite", sources, (out,))
    graph = read_graph_of(path)
    arrays = [example_input(graph.tensors[t].shape, dtype, seed) for seed, t in enumerate(sources)]
    (result,) = TensorRunner(str(path)).run(arrays)
    other = np.full(result.shape, 77, result.dtype)  # differs nearly everywhere
    layer = Watched(
        len(graph.ops) - 1,
        "",
        graph.ops[-1].kind,
        dtype,
        out,
        "out",
        result.shape,
        tuple(sources),
        quantizations(graph).get(out),
    )
    evidence = Evidence(layer, dict(zip(sources, arrays, strict=True)), result, other)
    found = recompute(path, graph, evidence)
    assert found is not None
    assert len(found.exact) > 0.9 * min(result.size, 256)
    assert found.explained(found.here)
    assert not found.explained(found.there)
    assert np.ptp(found.exact) > 0
    assert found.slack.max() < 0.07


def halfway(folder: Path, weight: int = 1) -> tuple[Path, int]:
    """One int8 weight of 1/2 step: odd inputs give sums exactly between two codes."""
    b = TfliteBuilder()
    image = b.tensor("image", (1, 1, 4, 1), "int8", scale=1.0)
    data = np.full((1, 1, 1, 1), weight, np.int8)
    w = b.tensor("body.conv", (1, 1, 1, 1), "int8", scale=[0.5], data=data)
    bias = b.tensor("bias", (1,), "int32", scale=[0.5], data=np.zeros(1, np.int32))
    out = b.tensor("out", (1, 1, 4, 1), "int8", scale=1.0)
    b.op("CONV_2D", (image, w, bias), (out,), "Conv2DOptions", strideW=1, strideH=1, padding=1)
    return b.write(folder / "halfway.tflite", (image,), (out,)), out


INPUT = np.array([1, 2, 5, 9], np.int8).reshape(1, 1, 4, 1)  # sums 0.5, 1, 2.5, 4.5


def rounds_up(_: int, values: Array) -> Array:
    return np.floor(INPUT / 2 + 0.5).astype(np.int8).reshape(values.shape)


def test_a_sum_exactly_between_two_codes_is_a_tie(tmp_path: Path) -> None:
    path, _ = halfway(tmp_path)
    (here,) = TensorRunner(str(path)).run([INPUT])
    assert here.ravel().tolist() == [0, 1, 2, 4]  # half to even
    found = check(path, FakeDevice("up", faulty(rounds_up)), inputs=fixed_inputs(INPUT))
    assert found.first == 0
    assert (found.outputs.differing, found.outputs.max_codes) == (3, 1)
    assert found.layers[0].module == "body.conv"
    assert "Both sides round the same value differently" in found.explanation
    assert "in all of the 3 elements" in found.explanation
    assert "at most 0 steps from the tie" in found.explanation


def test_a_code_that_no_rounding_gives_is_not_called_one(tmp_path: Path) -> None:
    path, _ = halfway(tmp_path)
    device = FakeDevice("wrong", faulty(lambda _, values: values + np.int8(1)))
    found = check(path, device, inputs=fixed_inputs(INPUT))
    assert "This machine gives what the exact value" in found.explanation
    assert "the device is up to 1.0 steps off" in found.explanation


def test_both_sides_can_be_wrong(tmp_path: Path) -> None:
    path, out = halfway(tmp_path)
    b_sources = {0: INPUT}
    graph = read_graph_of(path)
    layer = Watched(
        0, "", "CONV_2D", "int8", out, "out", (1, 1, 4, 1), (0,), quantizations(graph)[out]
    )
    here, there = (np.full((1, 1, 4, 1), value, np.int8) for value in (50, 70))
    found = recompute(path, graph, Evidence(layer, b_sources, here, there))
    assert found is not None
    assert not found.explained(found.here)
    assert not found.explained(found.there)
    assert found.off(found.there) == 69.5


def test_softmax_inside_integers_is_an_approximation(tmp_path: Path) -> None:
    b = TfliteBuilder()
    x = b.tensor("x", (1, 8), "int8", scale=0.1)
    out = b.tensor("out", (1, 8), "int8", scale=1 / 256, zero_point=-128)
    b.op("SOFTMAX", (x,), (out,), "SoftmaxOptions", beta=1.0)
    path = b.write(tmp_path / "softmax.tflite", (x,), (out,))

    def other(_: int, values: Array) -> Array:
        result = values.copy()
        result.reshape(-1)[2] += 1
        return result

    found = check(path, FakeDevice("other", faulty(other)))
    assert "computes softmax for codes" in found.explanation
    assert "tables or polynomials" in found.explanation
