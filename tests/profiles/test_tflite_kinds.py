"""Files that the interpreter runs: what inspect and profile say of them, against its own word."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnv4_deploy.errors import ModelFileError, UnsupportedError
from mnv4_deploy.profiles.inspection.inspect import inspect_file
from mnv4_deploy.profiles.isolated import NativeCrashError, run_isolated
from mnv4_deploy.profiles.machine.published import published
from mnv4_deploy.profiles.measure.measure import measure
from mnv4_deploy.profiles.records.profile import STATISTICS, MeasureRequest, ModelProfile
from mnv4_deploy.profiles.roofline.analyse import analyse
from mnv4_deploy.profiles.roofline.prediction import predict_measured
from tests.profiles.conftest import TfliteBuilder
from tests.profiles.planted_kinds import END_TO_END, RUN, signatures

PUBLIC = Path(__file__).parents[3] / "shared/cases/public"
CASES = sorted(PUBLIC.glob("*.tflite"))
SHAPES = {
    "sandhya_mobilenetv2.tflite": {"": (1, 320, 320, 3)},
    "dynamic_hw.tflite": {"": (1, 64, 64, 3)},
}
REFUSED = {"litert_gridsample.tflite", "fc_rank7.tflite", "gather_string.tflite"}


def interpreter_of(path: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    return interpreter


def delegates_of(path: Path) -> int:
    return [op["op_name"] for op in interpreter_of(path)._get_ops_details()].count("DELEGATE")


def profiles_of(path: Path, **options: Any) -> list[ModelProfile]:
    (measurement,) = measure([MeasureRequest(str(path), runs=12, max_seconds=4, **options)])
    return [analyse(measurement, None, statistic) for statistic in STATISTICS]


def assert_adds_up(profile: ModelProfile) -> None:
    wall_us = profile.trust.wall_us
    assert wall_us > 0
    if profile.whole is None:
        shares = [layer.latency_us / wall_us for layer in profile.layers]
        assert all(0 <= share <= 1 + 1e-9 for share in shares)
        assert sum(shares) <= 1 + 1e-9
        assert profile.trust.unattributed_us >= 0


@pytest.mark.parametrize("kind", sorted(RUN))
def test_what_runs_is_profiled(tflite: TfliteBuilder, tmp_path: Path, kind: str) -> None:
    path = RUN[kind](tflite, tmp_path / "m.tflite")
    for profile in profiles_of(path):
        assert_adds_up(profile)
        measurement = profile.measurement
        if kind in END_TO_END:
            assert profile.whole is not None
            assert any("end to end" in note for note in measurement.notes)
        else:
            assert profile.whole is None
            listed = [op for layer in profile.layers for op in layer.op_indices]
            assert sorted(listed) == [op.index for op in measurement.graph.ops]


@pytest.mark.parametrize("kind", sorted(RUN))
def test_partitions_are_the_interpreters(tflite: TfliteBuilder, tmp_path: Path, kind: str) -> None:
    path = RUN[kind](tflite, tmp_path / "m.tflite")
    facts = inspect_file(path)
    assert facts.partitions == delegates_of(path)
    assert len(facts.operators) == len(tflite.model.subgraphs[0].operators)
    if kind not in END_TO_END:
        assert profiles_of(path)[0].measurement.profile.partitions == facts.partitions


def test_bodies_are_listed(tflite: TfliteBuilder, tmp_path: Path) -> None:
    facts = inspect_file(RUN["while_loop"](tflite, tmp_path / "m.tflite"))
    assert [(op.kind, op.delegated) for op in facts.operators] == [("WHILE", False)]
    condition, body = facts.bodies
    assert (condition.index, condition.run_by, condition.partitions) == (1, ("WHILE",), 0)
    assert [(op.kind, op.delegated) for op in body.operators] == [("ADD", False), ("MUL", True)]
    assert body.partitions == 1
    # Every graph's constants: 10 and 1 as int32, 0.9 as float32.
    assert facts.weight_bytes_by_dtype == {"int32": 8, "float32": 4}


def test_both_branches_are_listed_though_one_runs(tflite: TfliteBuilder, tmp_path: Path) -> None:
    facts = inspect_file(RUN["branch"](tflite, tmp_path / "m.tflite"))
    assert [body.operators[0].kind for body in facts.bodies] == ["ADD", "MUL"]
    assert [body.partitions for body in facts.bodies] == [1, 1]


def test_what_is_set_once_is_no_partition_of_the_run(
    tflite: TfliteBuilder, tmp_path: Path
) -> None:
    facts = inspect_file(RUN["counter"](tflite, tmp_path / "m.tflite"))
    assert [op.kind for op in facts.not_delegated] == ["CALL_ONCE"]
    assert facts.partitions == 1


@pytest.mark.parametrize("name", ["", "add", "mul", "sub"])
def test_every_signature_runs(tflite: TfliteBuilder, tmp_path: Path, name: str) -> None:
    path = signatures(tflite, tmp_path / "m.tflite")
    kind = name.upper() or "ADD"
    facts = inspect_file(path, signature=name)
    assert [known.name for known in facts.signatures] == ["add", "mul", "sub"]
    assert [tensor.name for tensor in facts.signatures[0].inputs] == ["a", "b"]
    assert (facts.signature, list(facts.histogram)) == (name or "add", [kind])
    assert facts.partitions == 1
    profile = profiles_of(path, signature=name)[0]
    assert [op.kind for op in profile.measurement.graph.ops] == [kind]
    kernel = {"ADD": "Add (ND)", "MUL": "Multiply (ND)", "SUB": "Subtract (ND)"}[kind]
    assert kernel in [timing.tag for timing in profile.measurement.profile.ops]
    assert f"this is {name or 'add'}:" in " ".join(profile.measurement.notes)


def test_a_signature_that_is_not_there(
    tflite: TfliteBuilder, tmp_path: Path, conv_tflite: Path, conv_onnx: Path
) -> None:
    path = signatures(tflite, tmp_path / "m.tflite")
    for file, said in (
        (path, "add, mul, sub"),
        (conv_tflite, "no signatures"),
        (conv_onnx, "onnx"),
    ):
        with pytest.raises(UnsupportedError, match=said):
            inspect_file(file, signature="div")
        with pytest.raises(UnsupportedError, match=said):
            measure([MeasureRequest(str(file), runs=1, signature="div")])


@pytest.mark.parametrize("kind", ["sized_by_values", "found_by_value"])
def test_shapes_are_those_after_the_run(tflite: TfliteBuilder, tmp_path: Path, kind: str) -> None:
    from mnv4_deploy.profiles.runtimes.timing import example_input

    path = RUN[kind](tflite, tmp_path / "m.tflite")
    interpreter = interpreter_of(path)
    (source,) = interpreter.get_input_details()
    interpreter.set_tensor(source["index"], example_input(source["shape"], "float32"))
    interpreter.invoke()
    (target,) = interpreter.get_output_details()
    found = interpreter.get_tensor(target["index"]).shape
    graph = profiles_of(path)[0].measurement.graph
    assert graph.tensors[graph.outputs[0]].shape == found
    assert math.prod(found) > 1


def test_text_is_refused_in_words(tflite: TfliteBuilder, tmp_path: Path) -> None:
    x, at = tflite.tensor("x", (4,), "string"), tflite.tensor("at", (2,), "int64")
    y = tflite.tensor("y", (2,), "string")
    tflite.op("GATHER", (x, at), (y,), "GatherOptions", version=2)
    path = tflite.write(tmp_path / "m.tflite", (x, at), (y,))
    assert [tensor.dtype for tensor in inspect_file(path).inputs] == ["string", "int64"]
    with pytest.raises(UnsupportedError, match=r"input of type string \(x\)"):
        measure([MeasureRequest(str(path), runs=1)])


def test_what_the_runtime_refuses_is_listed(tflite: TfliteBuilder, tmp_path: Path) -> None:
    """XNNPACK takes a matrix product of rank 7 and fails to prepare it."""
    x = tflite.tensor("x", (1, 1, 1, 1, 1, 1, 6))
    w = tflite.tensor("w", (1, 6), data=np.ones((1, 6), np.float32))
    y = tflite.tensor("y", (1, 1, 1, 1, 1, 1, 1))
    options = {"keepNumDims": True}
    tflite.op("FULLY_CONNECTED", (x, w, -1), (y,), "FullyConnectedOptions", version=5, **options)
    path = tflite.write(tmp_path / "m.tflite", (x,), (y,))
    facts = inspect_file(path)
    assert (facts.histogram, facts.weight_bytes_by_dtype) == (
        {"FULLY_CONNECTED": 1},
        {"float32": 24},
    )
    assert facts.partitions is None
    assert "prepare" in facts.notes[0]
    with pytest.raises(ModelFileError) as refused:
        measure([MeasureRequest(str(path), runs=1)])
    assert "complete" not in str(refused.value)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.name)
def test_public_files(path: Path) -> None:
    facts = inspect_file(path)
    assert facts.operators
    assert facts.inputs
    unexplained = [op.kind for op in facts.not_delegated if "does not say" in (op.refusal or "")]
    assert unexplained == []
    if path.name in REFUSED:
        assert facts.partitions in (None, 0)
        with pytest.raises((ModelFileError, UnsupportedError)) as refused:
            measure([MeasureRequest(str(path), runs=1)])
        assert "complete" not in str(refused.value)
        return
    if path.name not in SHAPES:
        assert facts.partitions == delegates_of(path)
    for profile in profiles_of(path, shapes=SHAPES.get(path.name, {})):
        assert_adds_up(profile)


def test_a_prediction_needs_no_times_of_operators(tflite: TfliteBuilder, tmp_path: Path) -> None:
    path = RUN["sized_by_values"](tflite, tmp_path / "m.tflite")
    (measurement,) = measure([MeasureRequest(str(path), runs=1)])
    found = predict_measured(measurement, published("pixel-6-cpu"))
    products = [layer for layer in found.layers if layer.macs]
    # A 3x3 convolution of 4 channels into 8, at 16 x 16.
    assert [(layer.op_type, layer.macs) for layer in products] == [
        ("CONV_2D", 16 * 16 * 8 * 9 * 4)
    ]
    assert found.relative_time > 0


def test_a_crash_of_the_profiler_leaves_the_interpreter(
    tflite: TfliteBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the cause: here the child that would profile is killed before it begins."""
    path = RUN["while_loop"](tflite, tmp_path / "m.tflite")
    from mnv4_deploy.profiles.measure import measure as module

    isolated = run_isolated

    def crashing(function: Any, requests: Any, profile: bool, **options: Any) -> Any:
        if profile:
            raise NativeCrashError("m.tflite made the native runtime crash (SIGSEGV)")
        return isolated(function, requests, profile, **options)

    monkeypatch.setattr(module, "run_isolated", crashing)
    (measurement,) = measure([MeasureRequest(str(path), runs=2)])
    assert measurement.layers == ()
    assert "it crashed" in measurement.notes[0]
