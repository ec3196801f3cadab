"""A device with a planted fault: is the layer named that has it, and nothing else?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnv4_deploy.errors import ToolchainError, UnsupportedError
from mnv4_deploy.parity.layers import Equality, computes_in_integers, tflite_plan
from mnv4_deploy.profiles.graph.read import read_graph_of
from mnv4_deploy.profiles.runtimes.tensors import TensorRunner
from tests.parity.checks import check, convs, facts_of
from tests.parity.fake_devices import FakeDevice, Faulty, faulty, run_here
from tests.profiles.conftest import TfliteBuilder
from tests.profiles.planted_onnx import floats, helper, save
from tests.profiles.planted_tflite import add, conv, tensor, unary

pytestmark = pytest.mark.usefixtures("no_child")
NAMES = ("body.first", "body.second", "body.third")
Array = np.ndarray[Any, Any]


def changed(values: Array, at: int, by: int) -> Array:
    """One code moved, within the type."""
    result = values.copy()
    flat = result.reshape(-1)
    flat[at] = flat[at] - by if flat[at] > 0 else flat[at] + by
    return result


def test_equal_outputs_are_exact_and_no_layer_runs(tmp_path: Path) -> None:
    path, _ = convs(tmp_path, NAMES)
    device = FakeDevice("same")
    found = check(path, device)
    assert (found.outputs.verdict, found.outputs.differing, found.layers) == ("exact", 0, ())
    assert found.outputs.sqnr_db == np.inf
    assert found.outputs.elements == 2 * 8 * 8 * 4
    assert device.opened == [(path, None)]


@pytest.mark.parametrize("isolate", [True, False])
def test_one_code_in_the_middle_is_found_before_larger_faults_behind_it(
    tmp_path: Path, *, isolate: bool
) -> None:
    path, places = convs(tmp_path, NAMES)

    def fault(tensor: int, values: Array) -> Array:
        if tensor == places["body.second"]:
            return changed(values, 7, 1)
        return changed(values, 0, 90) if tensor in (places["body.third"], -1) else values

    found = check(path, FakeDevice("faulty", faulty(fault)), isolate=isolate)
    assert found.first is not None
    layer = found.layers[found.first]
    assert (layer.module, layer.kind, layer.compute) == (
        "body.second",
        "DEPTHWISE_CONV_2D",
        "int8",
    )
    assert (layer.difference.differing, layer.difference.max_codes) == (2, 1)
    assert layer.difference.max_error == pytest.approx(0.1)
    assert layer.step == pytest.approx(0.1)
    assert found.outputs.max_codes == 90
    assert not found.layers[0].difference.differing
    # The third layer read other bits, so only a run on equal inputs shows that it is wrong, too.
    assert found.own == (2 if isolate else 1)
    assert found.layers[2].inputs_equal is isolate


def test_what_only_passes_a_difference_on_is_not_blamed(tmp_path: Path) -> None:
    path, places = convs(tmp_path, NAMES)

    class FirstLayerIsWrong(Faulty):
        """A wrong first layer, and behind it what the network makes of that."""

        def __init__(self, path: Path, tensors: Sequence[int] | None) -> None:
            super().__init__(path, tensors, self.fault)

        def fault(self, tensor: int, values: Array) -> Array:
            isolated = len(self.inputs) > 1
            wanted = {places["body.first"]: 5, places["body.second"]: 9, places["body.third"]: 60}
            if tensor == -1:
                return changed(values, 3, 60)
            if isolated and tensor != places["body.first"]:
                return values
            return changed(values, 3, wanted[tensor])

    found = check(path, FakeDevice("wrong", FirstLayerIsWrong))
    assert found.first is not None
    assert found.layers[found.first].module == "body.first"
    assert found.own == 1
    assert [layer.difference.max_codes for layer in found.layers] == [5, 9, 60]
    behind = found.layers[1].on_equal_inputs
    assert behind is not None
    assert (behind.differing, behind.elements) == (0, 2 * 8 * 8 * 4)


def test_one_channel_of_a_float_network(tmp_path: Path) -> None:
    path, places = convs(tmp_path, NAMES, "float32", activation=1)

    def fault(tensor: int, values: Array) -> Array:
        if tensor not in (places["body.third"], -1):
            return values
        result = values.copy()
        result[..., 2] += 0.01 * np.abs(values).max()
        return result

    found = check(path, FakeDevice("faulty", faulty(fault)))
    assert found.first is not None
    layer = found.layers[found.first]
    assert (layer.module, layer.difference.differing) == ("body.third", 2 * 8 * 8)
    assert layer.difference.max_codes is None
    assert layer.difference.max_relative_error == pytest.approx(0.01, rel=1e-3)
    assert "the device is further from the float64 result" in found.explanation.lower()


def test_a_bit_of_a_float_is_as_of_another_order_of_summation(tmp_path: Path) -> None:
    path, places = convs(tmp_path, NAMES, "float32")

    def fault(tensor: int, values: Array) -> Array:
        if tensor not in (places["body.second"], -1):
            return values
        result = values.copy()
        result.reshape(-1)[5] = np.nextafter(result.reshape(-1)[5], np.float32(np.inf))
        return result

    found = check(path, FakeDevice("fused", faulty(fault)))
    assert found.outputs.verdict == "reordered"
    assert found.first is not None
    assert found.layers[found.first].module == "body.second"
    assert "another order of summation" in found.explanation


@pytest.mark.parametrize("float_differs", [True, False])
def test_the_first_layer_whose_codes_differ_is_named_behind_floats_that_do(
    tmp_path: Path, *, float_differs: bool
) -> None:
    """A float island in a network of integers differs in its last bits wherever it runs."""
    b = TfliteBuilder()
    image = tensor(b, "image", (1, 8, 8, 4), "int8")
    island = unary(b, "LOGISTIC", unary(b, "DEQUANTIZE", image, "body.unpacked"), "body.island")
    codes = unary(b, "QUANTIZE", island, "body.codes", "int8")
    out = conv(b, codes, "body.conv", kernel=1, width=4, dtype="int8")
    b.graph.tensors[out].name = "scores"
    path = b.write(tmp_path / "island.tflite", (image,), (out,))

    def fault(tensor: int, values: Array) -> Array:
        if tensor == island and float_differs:
            return np.nextafter(values, np.float32(2))
        return changed(values, 3, 1) if tensor in (out, -1) else values

    found = check(path, FakeDevice("arm", faulty(fault)))
    assert found.first is not None
    assert found.first_code is not None
    first, code = found.layers[found.first], found.layers[found.first_code]
    assert code.kind == "CONV_2D"
    assert "device is up to" in found.code_explanation
    if float_differs:
        assert (first.kind, first.on_equal_inputs.max_codes) == ("LOGISTIC", None)
        assert "approximation" in found.explanation
    else:
        assert found.first == found.first_code
        assert found.explanation == found.code_explanation


def test_a_runtime_that_keeps_no_tensors_is_a_note(tmp_path: Path) -> None:
    path, _ = convs(tmp_path, NAMES)

    def opener(path: Path, tensors: Sequence[int] | None) -> Any:
        if tensors is not None:
            raise UnsupportedError("This device gives outputs alone.")
        return faulty(lambda _, values: changed(values, 0, 1))(path, tensors)

    found = check(path, FakeDevice("phone", opener))
    assert (found.outputs.differing, found.layers, found.first) == (2, (), None)
    assert found.notes == ("Layers were not compared: This device gives outputs alone.",)


def test_the_layer_behind_a_tensor_that_is_not_kept_answers_for_it(tmp_path: Path) -> None:
    path, places = convs(tmp_path, NAMES)

    def fault(tensor: int, values: Array) -> Array:
        if tensor == places["body.second"]:
            return np.zeros(0, np.uint8)
        return changed(values, 0, 2) if tensor in (places["body.third"], -1) else values

    found = check(path, FakeDevice("fusing", faulty(fault)))
    assert [layer.module for layer in found.layers] == ["body.first", "body.third"]
    assert found.first == 1
    assert any("1 of 3 intermediate tensors are not kept" in note for note in found.notes)


def test_only_fused_runs_differ(tmp_path: Path) -> None:
    path, _ = convs(tmp_path, NAMES)
    device = FakeDevice("fusing", faulty(lambda t, v: changed(v, 0, 1) if t == -1 else v))
    found = check(path, device)
    assert (found.outputs.differing, found.first, found.own) == (2, None, 0)
    assert "ssh://fusing gives other outputs than plain runs in 2 of 2" in found.notes[0]
    assert "No layer differs on equal inputs" in found.notes[1]


def test_a_result_of_another_shape(tmp_path: Path) -> None:
    path, places = convs(tmp_path, NAMES)
    last = (places["body.third"], -1)
    device = FakeDevice("cuts", faulty(lambda t, v: v[:, 1:] if t in last else v))
    found = check(path, device)
    assert found.outputs.verdict == "different"
    assert found.outputs.differing == found.outputs.elements
    assert "int8 [1, 8, 8, 4] here and int8 [1, 7, 8, 4] on the device" in found.explanation


def test_a_device_that_sends_too_little_is_no_crash(tmp_path: Path) -> None:
    path, _ = convs(tmp_path, NAMES)

    class Short(Faulty):
        def run(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
            return super().run(inputs)[1:]

    device = FakeDevice("short", lambda path, tensors: Short(path, tensors, lambda _, v: v))
    with pytest.raises(ToolchainError, match="gave 0 tensors instead of 1"):
        check(path, device)


def test_an_operator_that_moves_values_is_a_defect(tmp_path: Path) -> None:
    tflite = TfliteBuilder()
    source = tensor(tflite, "image", (1, 4, 4, 2))
    moved = tensor(tflite, "moved", (1, 16, 2))
    shape = tflite.tensor("shape", (3,), "int32", data=np.array([1, 16, 2], np.int32))
    tflite.op("RESHAPE", (source, shape), (moved,))
    out = unary(tflite, "RELU", moved, "out")
    path = tflite.write(tmp_path / "moves.tflite", (source,), (out,))
    found = check(path, FakeDevice("swaps", faulty(lambda t, v: v + 1 if t in (moved, -1) else v)))
    assert "RESHAPE computes nothing" in found.explanation


def test_residual_connections_read_both_tensors(tmp_path: Path) -> None:
    tflite = TfliteBuilder()
    source = tensor(tflite, "image", (1, 4, 4, 2))
    left, right = (unary(tflite, kind, source, kind) for kind in ("RELU", "ABS"))
    out = add(tflite, left, right, "sum")
    path = tflite.write(tmp_path / "sum.tflite", (source,), (out,))
    plan = tflite_plan(path, read_graph_of(path), facts_of(path))
    summed = plan.layers[-1]
    assert summed.sources == (left, right)
    equality = Equality(plan.inputs, {la.tensor: la.sources for la in plan.layers})
    equality.set(left, equal=True)
    assert equality.inputs_equal(summed)  # ABS was not kept, and its input is the file's
    other = Equality(plan.inputs, {la.tensor: la.sources for la in plan.layers})
    other.set(right, equal=False)
    assert not other.inputs_equal(summed)


def test_weights_that_are_unpacked_are_no_layers(tmp_path: Path) -> None:
    tflite = TfliteBuilder()
    source = tensor(tflite, "image", (1, 4))
    packed = tflite.tensor("w", (1, 4), "int8", scale=0.1, data=np.ones((1, 4), np.int8))
    weights = unary(tflite, "DEQUANTIZE", packed, "w.float")
    out = add(tflite, source, weights, "out")
    path = tflite.write(tmp_path / "unpacked.tflite", (source,), (out,))
    plan = tflite_plan(path, read_graph_of(path), facts_of(path))
    assert [(layer.kind, layer.sources) for layer in plan.layers] == [("ADD", (source,))]


def test_integers_are_told_from_floats(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    for folder, dtype, expected in ((tmp_path, "int8", True), (tmp_path / "f", "float32", False)):
        path, _ = convs(folder, NAMES, dtype)
        assert computes_in_integers(read_graph_of(path), facts_of(path)) is expected


def unoptimised(path: Path, tensors: Sequence[int] | None) -> TensorRunner:
    import onnxruntime

    runner = run_here(path, tensors)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    runner._backend._own = onnxruntime.InferenceSession(str(path), options)  # type: ignore[union-attr]
    return runner


def test_onnxruntime_without_optimisations_is_reordered(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "/body/first/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], "/body/act/Relu"),
        helper.make_node("Conv", ["b", "w2"], ["out"], "/body/second/Conv", pads=[1, 1, 1, 1]),
    ]
    weights = {"w1": floats(32, 16, 3, 3), "w2": floats(8, 32, 3, 3)}
    path = save(tmp_path, nodes, weights, (1, 16, 24, 24))
    device = FakeDevice("plain", unoptimised)
    found = check(path, device)
    if not found.outputs.differing:
        pytest.skip("this processor adds in the same order either way")
    assert found.outputs.verdict == "reordered"
    assert found.first is not None
    assert found.layers[found.first].module == "body.first"
    assert 0 < found.layers[found.first].difference.max_relative_error < 1e-5
