"""Planted defects: onnxruntime must run the operator in float, and the reason must be the defect.

Every defect has a twin without it that onnxruntime runs in 8 bits, so a reason that is given
blindly for every operator of a kind would not pass.
"""

from __future__ import annotations

import json
import platform
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from rich.console import Console
from typer.testing import CliRunner

from mnv4_deploy.cli.app import app
from mnv4_deploy.profiles.inspection.inspect_onnx import inspect_here
from mnv4_deploy.profiles.ort.float_reasons import UNKNOWN, float_reasons
from mnv4_deploy.profiles.ort.rules import FIRST_CONVOLUTION, NO_KERNEL
from mnv4_deploy.profiles.records.files import FileFacts, OperatorFacts
from mnv4_deploy.terminal.export import print_facts
from tests.profiles.planted_pairs import PairBuilder, Planted, plant

pytestmark = pytest.mark.usefixtures("no_child")
CODES = np.random.default_rng(0).integers(-50, 50, (8, 8, 3, 3)).astype(np.int8)
SHAPE = (1, 8, 8, 8)


def only(facts: FileFacts, kind: str) -> OperatorFacts:
    (operator,) = [op for op in facts.operators if op.kind == kind]
    return operator


def assert_8_bits(operator: OperatorFacts) -> None:
    assert operator.compute in ("uint8", "int8")
    assert operator.float_reason is None


def assert_float(operator: OperatorFacts, *words: str) -> None:
    assert operator.compute == "float32"
    assert operator.float_reason is not None
    for word in words:
        assert word in operator.float_reason


def convolution(
    path: Path,
    *,
    clip: str = "",
    zero: int = 0,
    weights: Any = CODES,
    readers: tuple[str, ...] = ("pair",),
    output: bool = False,
) -> FileFacts:
    """A Conv between pairs, maybe with a clip behind it and more that reads it."""
    b = PairBuilder(zero_point=zero)
    b.node("Tanh", [b.value(SHAPE)])
    named = b.weights(weights) if weights.dtype == np.int8 else b.constant(weights)
    result = b.node("Conv", [b.pair(b.value(SHAPE)), named])
    if clip == "Relu":
        result = b.node("Relu", [result])
    elif clip:
        limits = [b.constant(np.float32(limit)) for limit in map(float, clip.split(","))]
        result = b.node("Clip", [result, *limits])
    for reader in readers:
        if "pair" in reader:
            other = b.constant(np.float32(0.1)) if reader == "other pair" else ""
            b.end(b.pair(result, other))
        else:
            b.end(b.node(reader, [result]))
    if output:
        b.outputs.append(helper.make_tensor_value_info(result, TensorProto.FLOAT, None))
    return inspect_here(str(b.write(path)))


class TestBehind:
    """What is behind a convolution."""

    def test_a_pair(self, tmp_path: Path) -> None:
        assert_8_bits(only(convolution(tmp_path / "m.onnx"), "Conv"))

    def test_nothing(self, tmp_path: Path) -> None:
        facts = convolution(tmp_path / "m.onnx", readers=("Sin",))
        assert_float(only(facts, "Conv"), "its result has no QuantizeLinear behind it")

    def test_a_float_reader_too(self, tmp_path: Path) -> None:
        facts = convolution(tmp_path / "m.onnx", readers=("pair", "Sin"))
        assert_float(only(facts, "Conv"), "quantized, and Sin reads it in float too")

    def test_two_pairs(self, tmp_path: Path) -> None:
        facts = convolution(tmp_path / "m.onnx", readers=("pair", "other pair"))
        assert_float(only(facts, "Conv"), "its result is quantized in 2 ways")
        facts = convolution(tmp_path / "m.onnx", readers=("pair", "pair"))
        assert only(facts, "Conv").compute.startswith("uint8")

    def test_an_output_of_the_file(self, tmp_path: Path) -> None:
        facts = convolution(tmp_path / "m.onnx", output=True)
        assert_float(only(facts, "Conv"), "its result is an output of the file")

    @pytest.mark.parametrize("clip", ["Relu", "0,12.75", "-1,13"])
    def test_a_clip_that_the_range_makes_idle(self, tmp_path: Path, clip: str) -> None:
        assert_8_bits(only(convolution(tmp_path / "m.onnx", clip=clip), "Conv"))

    @pytest.mark.parametrize(
        ("clip", "zero", "limits"),
        [
            ("Relu", 1, "[0, inf], and the QuantizeLinear behind it to [-0.05, 12.7]"),
            ("0,12", 0, "[0, 12], and the QuantizeLinear behind it to [0, 12.8]"),
        ],
    )
    def test_a_clip_with_work_to_do(
        self, tmp_path: Path, clip: str, zero: int, limits: str
    ) -> None:
        facts = convolution(tmp_path / "m.onnx", clip=clip, zero=zero)
        kind = "Relu" if clip == "Relu" else "Clip"
        assert_float(only(facts, "Conv"), f"the {kind} behind it stays: it clips to {limits}")
        assert_float(only(facts, kind), f"it clips to {limits}")

    def test_a_clip_and_no_pair(self, tmp_path: Path) -> None:
        facts = convolution(tmp_path / "m.onnx", clip="Relu", readers=("Sin",))
        expected = "the result of the Relu behind it has no QuantizeLinear behind it"
        assert only(facts, "Conv").float_reason == expected


class TestOperands:
    """What an operator reads."""

    def test_weights(self, tmp_path: Path) -> None:
        floats = Planted(("x", np.ones((8, 8), np.float32)), shape=(4, 8))
        assert_float(
            plant("MatMul", tmp_path / "m.onnx", planted=floats), "its weights are not quantized"
        )
        assert_8_bits(plant("MatMul", tmp_path / "m.onnx"))

    def test_weights_that_onnxruntime_quantizes_by_itself(self, tmp_path: Path) -> None:
        weights = np.ones((8, 8, 3, 3), np.float32)
        assert_8_bits(only(convolution(tmp_path / "m.onnx", weights=weights), "Conv"))

    def test_a_constant(self, tmp_path: Path) -> None:
        floats = Planted(("x", np.ones((1, 8, 1, 1), np.float32)))
        assert_float(
            plant("Add", tmp_path / "m.onnx", planted=floats),
            "a constant that it reads is not quantized",
        )
        assert_8_bits(plant("Add", tmp_path / "m.onnx"))

    def test_weights_alone_quantized(self, tmp_path: Path) -> None:
        b = PairBuilder()
        b.inputs.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE))
        b.end(b.pair(b.node("Conv", ["x", b.weights(CODES)])))
        facts = inspect_here(str(b.write(tmp_path / "m.onnx")))
        assert_float(only(facts, "Conv"), "it reads float input of the file")

    def test_an_image(self, tmp_path: Path) -> None:
        b = PairBuilder()
        b.inputs.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 8, 8)))
        b.end(b.pair(b.node("Conv", ["x", b.weights(CODES[:, :3])])))
        facts = inspect_here(str(b.write(tmp_path / "m.onnx")))
        assert only(facts, "Conv").float_reason == FIRST_CONVOLUTION

    def test_what_moved_operators_hide(self, tmp_path: Path) -> None:
        """The name of what computed it tells more than that of a Transpose between."""
        b = PairBuilder()
        moved = b.node("Transpose", [b.node("Tanh", [b.value(SHAPE)])], perm=[0, 2, 3, 1])
        b.end(b.node("AveragePool", [moved], kernel_shape=[2, 2]))
        b.end(b.pair(b.value(SHAPE)))
        facts = inspect_here(str(b.write(tmp_path / "m.onnx")))
        assert_float(only(facts, "AveragePool"), "it reads what Tanh wrote in float")
        assert_float(only(facts, "Transpose"), "it reads what Tanh wrote in float")

    @pytest.mark.parametrize("mode", ["linear", "cubic"])
    def test_a_mode(self, tmp_path: Path, mode: str) -> None:
        planted = Planted(("x", None, np.array([1, 1, 2, 2], np.float32)), {"mode": mode})
        assert_float(
            plant("Resize", tmp_path / "m.onnx", planted=planted),
            f"in mode nearest only, and this is {mode}",
        )


class TestInt8OnX86:
    """onnxruntime makes int8 activations uint8 there, but not all of them."""

    def additions(self, path: Path, dtype: type, readers: int) -> FileFacts:
        b = PairBuilder(dtype)
        left = b.pair(b.value(SHAPE))
        b.end(b.pair(b.node("Add", [left, b.pair(b.value(SHAPE))])))
        for _ in range(readers - 1):
            b.end(b.pair(b.node("GlobalAveragePool", [left])))
        return inspect_here(str(b.write(path)))

    def test_one_reader(self, tmp_path: Path) -> None:
        assert_8_bits(only(self.additions(tmp_path / "m.onnx", np.int8, 1), "Add"))

    def test_two_readers_of_uint8(self, tmp_path: Path) -> None:
        assert_8_bits(only(self.additions(tmp_path / "m.onnx", np.uint8, 2), "Add"))

    @pytest.mark.skipif(
        platform.machine() not in ("x86_64", "AMD64"), reason="other processors run all in int8"
    )
    def test_two_readers_of_int8(self, tmp_path: Path) -> None:
        facts = self.additions(tmp_path / "m.onnx", np.int8, 2)
        assert facts.executed_histogram is not None
        assert facts.executed_histogram["Add"] == 1  # the runtime's own word
        assert_float(only(facts, "Add"), "quantize activations to uint8")

    def test_both_types(self) -> None:
        """Not observed: x86 runs it in uint8."""
        b, other = PairBuilder(np.uint8), np.zeros((), np.int8)
        right = b.pair(b.value(SHAPE), zero=b.constant(other))
        b.end(b.pair(b.node("Add", [b.pair(b.value(SHAPE)), right])))
        graph = helper.make_graph(b.nodes, "g", b.inputs, b.outputs, b.constants)
        index = [node.op_type for node in graph.node].index("Add")
        assert "mixes int8 and uint8" in float_reasons(graph, [index])[index]


def mixed(path: Path) -> Path:
    """Two Gelu and a Conv in float, a Conv in uint8."""
    b = PairBuilder()
    value = b.pair(b.value(SHAPE))
    quantized = b.pair(b.node("Conv", [value, b.weights(CODES)]))
    result = b.node("Conv", [b.node("Gelu", [b.node("Gelu", [quantized])]), b.weights(CODES)])
    b.end(b.pair(result))
    return b.write(path)


MIXED = {
    ("Gelu", NO_KERNEL): 2,
    ("Conv", "it reads what Gelu wrote in float, with no Q/DQ pair between"): 1,
}


def test_the_terminal_groups_them(tmp_path: Path) -> None:
    stream = StringIO()
    print_facts(inspect_here(str(mixed(tmp_path / "m.onnx"))), Console(file=stream, width=80))
    lines = stream.getvalue().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("onnxruntime really runs"))
    printed = [line for line in lines[start:] if line.startswith("  float ")]
    for (kind, reason), count in MIXED.items():
        assert f"  float {count} x {kind}: {reason}" in printed


def test_json_has_them_at_every_operator(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["inspect", str(mixed(tmp_path / "m.onnx")), "--json"])
    assert done.exit_code == 0
    found: dict[tuple[str, str], int] = {}
    for operator in json.loads(done.stdout)["operators"]:
        if operator["kind"] in ("Gelu", "Conv") and operator["float_reason"] is not None:
            key = operator["kind"], operator["float_reason"]
            found[key] = found.get(key, 0) + 1
        assert (operator["float_reason"] is None) == (operator["compute"] != "float32")
    assert found == MIXED


def test_a_float_file_has_none(conv_onnx: Path) -> None:
    facts = inspect_here(str(conv_onnx))
    assert facts.in_float == ()
    stream = StringIO()
    print_facts(facts, Console(file=stream))
    assert not [s for s in stream.getvalue().splitlines() if s.startswith("  float")]


def test_operators_for_integers_have_reasons_around_them(conv_onnx: Path, tmp_path: Path) -> None:
    """QOperator files have no pairs, but QuantizeLinear at their ends; dynamic ones not even."""
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(str(conv_onnx), str(tmp_path / "m.onnx"))
    facts = inspect_here(str(tmp_path / "m.onnx"))
    reasons = {op.kind: op.float_reason for op in facts.in_float}
    assert reasons["Erf"] == NO_KERNEL
    assert UNKNOWN not in reasons.values()
    assert "ConvInteger" not in reasons


def test_weights_beside_the_file_are_not_read(tmp_path: Path) -> None:
    path = mixed(tmp_path / "m.onnx")
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    facts = inspect_here(str(path))
    found = {(op.kind, op.float_reason) for op in facts.in_float}
    assert MIXED.keys() <= found
