"""Quantized .onnx files: fusion into int8 kernels stays, and sums are recomputed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnv4_deploy.parity.explain import large_pairs
from mnv4_deploy.profiles.runtimes.tensors import TensorRunner
from tests.parity.checks import check, fixed_inputs
from tests.parity.fake_devices import FakeDevice, run_here

pytestmark = pytest.mark.usefixtures("no_child")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
helper = onnx.helper
Array = np.ndarray[Any, Any]


def qdq(folder: Path, codes: Sequence[int], scale: float = 0.5, name: str = "qdq") -> Path:
    """QuantizeLinear -> (DQ -> Conv -> Relu -> Q) -> DQ; one output channel, a 1x1 kernel."""
    stored = {
        "one": np.float32(1.0),
        "zero": np.uint8(0),
        "w": np.array(codes, np.int8).reshape(1, -1, 1, 1),
        "ws": np.float32(scale),
        "wz": np.int8(0),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["xq"], "x_QuantizeLinear"),
        helper.make_node("DequantizeLinear", ["xq", "one", "zero"], ["xd"], "x_DequantizeLinear"),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], "w_DequantizeLinear"),
        helper.make_node("Conv", ["xd", "wd"], ["c"], "/body/conv/Conv"),
        helper.make_node("Relu", ["c"], ["r"], "/body/act/Relu"),
        helper.make_node("QuantizeLinear", ["r", "one", "zero"], ["rq"], "r_QuantizeLinear"),
        helper.make_node("DequantizeLinear", ["rq", "one", "zero"], ["out"], "r_Dequant"),
    ]
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", kind, [1, len(codes), 1, 4])],
        [helper.make_tensor_value_info("out", kind, [1, 1, 1, 4])],
        [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    path = folder / f"{name}.onnx"
    onnx.save(model, str(path))
    return path


class Rounding:
    """A device that gives ``codes`` for the result, as an output and as a tensor."""

    def __init__(self, path: Path, tensors: Sequence[int] | None, codes: Sequence[int]) -> None:
        self._own: TensorRunner = run_here(path, tensors)
        self.runtime, self.inputs, self._codes = self._own.runtime, self._own.inputs, codes

    def run(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        results = self._own.run(inputs)
        return tuple(
            np.array(self._codes, value.dtype).reshape(value.shape)
            if value.size == len(self._codes) and value.shape == (1, 1, 1, 4)
            else value
            for value in results
        )

    def close(self) -> None:
        self._own.close()


def rounding(*codes: int) -> FakeDevice:
    return FakeDevice("other", lambda path, tensors: Rounding(path, tensors, codes))


X = np.array([[1, 2, 5, 9], [0, 0, 0, 0]], np.float32).reshape(1, 2, 1, 4)


def test_a_tie_in_an_int8_convolution(tmp_path: Path) -> None:
    path = qdq(tmp_path, [1, 0])
    (here,) = TensorRunner(str(path)).run([X])
    assert here.ravel().tolist() == [0, 1, 2, 4]
    found = check(path, rounding(1, 1, 3, 5), inputs=fixed_inputs(X))
    assert found.first is not None
    layer = found.layers[found.first]
    assert (layer.kind, layer.module) == ("Conv", "body.conv")
    assert (layer.difference.differing, layer.difference.max_codes) == (3, 1)
    assert layer.step == 1.0
    assert "Both sides round the same value differently" in found.explanation
    assert "at most 0 steps from the tie" in found.explanation
    assert not any("gives other outputs" in note for note in found.notes)


def test_a_wrong_sum_is_no_tie(tmp_path: Path) -> None:
    found = check(qdq(tmp_path, [1, 0]), rounding(9, 1, 2, 4), inputs=fixed_inputs(X))
    assert "the device is up to 8.5 steps off" in found.explanation


def qdq_add(folder: Path) -> Path:
    """QuantizeLinear -> DQ -> Add of the same twice -> Q with a step of 4 -> DQ."""
    stored = {"one": np.float32(1.0), "four": np.float32(4.0), "zero": np.uint8(0)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["xq"], "x_QuantizeLinear"),
        helper.make_node("DequantizeLinear", ["xq", "one", "zero"], ["xd"], "x_DequantizeLinear"),
        helper.make_node("Add", ["xd", "xd"], ["a"], "/body/add/Add"),
        helper.make_node("QuantizeLinear", ["a", "four", "zero"], ["aq"], "a_QuantizeLinear"),
        helper.make_node("DequantizeLinear", ["aq", "four", "zero"], ["out"], "a_Dequant"),
    ]
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", kind, [1, 1, 1, 4])],
        [helper.make_tensor_value_info("out", kind, [1, 1, 1, 4])],
        [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    path = folder / "add.onnx"
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        ((1, 1, 3, 5), "at most 0 steps from the tie"),
        ((0, 7, 2, 4), "the device is up to 6.0 steps off"),
    ],
)
def test_an_addition_is_recomputed(tmp_path: Path, codes: tuple[int, ...], said: str) -> None:
    path = qdq_add(tmp_path)
    x = X[:, :1]
    (here,) = TensorRunner(str(path)).run([x])
    assert here.ravel().tolist() == [0, 4, 8, 16]  # 0.5, 1, 2.5 and 4.5 steps, half to even
    device = FakeDevice("other", lambda path, tensors: Sums(path, tensors, codes))
    found = check(path, device, inputs=fixed_inputs(x))
    assert found.first is not None
    assert (found.layers[found.first].kind, found.first) == ("Add", found.first_code)
    assert said in found.explanation


class Sums(Rounding):
    """``codes`` for the sum alone: as a tensor, and dequantized as the output."""

    def run(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        codes = np.array(self._codes, np.uint8).reshape(1, 1, 1, 4)
        results = self._own.run(inputs)
        wrong = [codes if v.dtype == np.uint8 and v.max() < 8 else v for v in results]
        return (codes.astype(np.float32) * 4, *wrong[1:])


def test_pairs_that_saturate_are_named_where_a_processor_may(tmp_path: Path) -> None:
    path = qdq(tmp_path, [100, 100, 60, 60, 127, -127], scale=0.01)
    assert large_pairs(path, 3) == 1
    x = np.full((1, 6, 1, 4), 255, np.float32)
    found = check(path, rounding(1, 1, 1, 1), inputs=fixed_inputs(x))
    assert "1 pairs of neighbouring weights" in found.explanation
    assert large_pairs(qdq(tmp_path, [64, 64, -64, -64], name="safe"), 3) == 0


@pytest.mark.parametrize(("groups", "pairs"), [(4, 0), (1, 3)])
def test_depthwise_kernels_add_no_pairs(tmp_path: Path, groups: int, pairs: int) -> None:
    """Of four channels, or of one: a 1x2 kernel of the largest codes, of which one is dead."""
    codes = np.full((4, 1, 1, 2), 127, np.int8)
    codes[0] = 0
    stored = {"w": codes, "ws": np.float32(1), "wz": np.int8(0)}
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"]),
        helper.make_node("Conv", ["x", "wd"], ["y"], group=groups),
    ]
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", kind, [1, groups, 1, 4])],
        [helper.make_tensor_value_info("y", kind, [1, 4, 1, 3])],
        [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(tmp_path / "net.onnx"))
    assert large_pairs(tmp_path / "net.onnx", 1) == pairs
