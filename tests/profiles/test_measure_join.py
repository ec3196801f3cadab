"""Times from anywhere joined with the graph here, and times that cannot be the file's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mnv4_deploy.errors import ModelFileError, ToolchainError
from mnv4_deploy.profiles.measure.join import join_timed
from mnv4_deploy.profiles.measure.measure import measure_here, time_here
from mnv4_deploy.profiles.records.plain import from_plain, to_plain
from mnv4_deploy.profiles.records.profile import MeasureRequest, TimedFile
from mnv4_deploy.profiles.records.timing import OpTiming


def _timed(path: Path, runs: int = 4) -> TimedFile:
    (found,) = time_here([MeasureRequest(str(path), runs=runs)])
    return from_plain(TimedFile, to_plain(found))  # as it arrives from elsewhere


@pytest.mark.parametrize("name", ["conv_tflite", "split_tflite", "conv_onnx", "qdq_onnx"])
def test_as_if_it_had_been_measured_at_once(name: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(name)
    asked = MeasureRequest(str(path), runs=4)
    (here,) = measure_here([asked])
    joined = join_timed(asked, _timed(path), path)
    assert joined.layers == here.layers
    assert joined.graph == here.graph
    assert joined.refusals == here.refusals
    assert (joined.sha256, joined.size_bytes) == (here.sha256, here.size_bytes)
    assert [t.tag for t in joined.profile.ops] == [t.tag for t in here.profile.ops]
    assert joined.device is None


def test_the_file_is_the_one_here_wherever_it_ran(conv_tflite: Path, tmp_path: Path) -> None:
    away = tmp_path / "elsewhere.tflite"
    away.write_bytes(conv_tflite.read_bytes())
    timed = _timed(away)
    joined = join_timed(MeasureRequest(str(conv_tflite), threads=1), timed, conv_tflite)
    assert timed.profile.path == str(away)
    assert joined.path == joined.profile.path == str(conv_tflite)


def _without_operators(timed: TimedFile) -> TimedFile:
    return replace(timed, profile=replace(timed.profile, ops=()), profiled_rounds_us=())


def test_without_times_of_operators_there_are_no_layers(split_tflite: Path) -> None:
    timed = _without_operators(_timed(split_tflite))
    joined = join_timed(MeasureRequest(str(split_tflite)), timed, split_tflite)
    assert joined.layers == ()
    assert [op.kind for op in joined.graph.ops] == ["CONV_2D", "CUMSUM", "CONV_2D", "MEAN"]
    # Which operators XNNPACK takes the interpreter says here, where the file ran on the same one.
    assert joined.refusals == {1: "XNNPACK has no CUMSUM"}
    assert joined.notes[-1].startswith("XNNPACK takes 3 of 4 operators in 2 partitions; outside")


def test_another_runtimes_delegation_is_not_guessed(split_tflite: Path) -> None:
    timed = _without_operators(_timed(split_tflite))
    there = replace(timed, profile=replace(timed.profile, runtime="tflite-runtime 2.14.0"))
    joined = join_timed(MeasureRequest(str(split_tflite)), there, split_tflite)
    assert (joined.refusals, joined.notes) == ({}, ())


def test_runs_without_operators_stay(split_tflite: Path) -> None:
    timed = _without_operators(_timed(split_tflite))
    joined = join_timed(MeasureRequest(str(split_tflite)), timed, split_tflite)
    assert joined.rounds_us == timed.rounds_us


# What onnxruntime 1.31.1 ran for this file on aarch64, and how it names a convolution in NHWC
# (of conv-s in float there: "conv_stem/Conv_token_2" for "conv_stem/Conv").
ON_ARM = (
    ("FusedConv", "conv0"),
    ("Conv", "conv1"),
    ("Erf", "erf1"),
    ("GlobalAveragePool", "pool"),
)
IN_NHWC = (
    ("Transpose", "Transpose"),
    ("NhwcFusedConv", "conv0_token_2"),
    ("Transpose", "Transpose_token_4"),
    *ON_ARM[1:],
)


@pytest.mark.parametrize(("nodes", "inserted"), [(ON_ARM, 0), (IN_NHWC, 2)])
def test_what_ran_on_arm_is_joined_on_any_machine(
    nodes: tuple[tuple[str, str], ...], inserted: int, conv_onnx: Path
) -> None:
    timed = _timed(conv_onnx, runs=1)
    ops = tuple(OpTiming(tag, "onnxruntime", (1.0,), name) for tag, name in nodes)
    timed = replace(timed, profile=replace(timed.profile, ops=ops))
    joined = join_timed(MeasureRequest(str(conv_onnx)), timed, conv_onnx, "aarch64")
    ran = [layer for layer in joined.layers if layer.op_indices]
    assert [layer.op_indices for layer in ran] == [(0, 1), (2,), (3,), (4,)]
    assert [ops[layer.timing_indices[0]].tag for layer in ran] == [
        tag for tag, _ in nodes if tag != "Transpose"
    ]
    assert len(joined.layers) - len(ran) == inserted


def _ops(change: Callable[[OpTiming], OpTiming]) -> Callable[[TimedFile], TimedFile]:
    def changed(timed: TimedFile) -> TimedFile:
        first, *rest = timed.profile.ops
        return replace(timed, profile=replace(timed.profile, ops=(change(first), *rest)))

    return changed


def _walls(us: float) -> Callable[[TimedFile], TimedFile]:
    def changed(timed: TimedFile) -> TimedFile:
        return replace(timed, rounds_us=tuple((us,) * len(r) for r in timed.rounds_us))

    return changed


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(_ops(lambda t: replace(t, samples_us=t.samples_us[1:])), id="a run too few"),
        pytest.param(_ops(lambda t: replace(t, samples_us=(-1.0,) * 4)), id="negative"),
        pytest.param(_ops(lambda t: replace(t, samples_us=(float("nan"),) * 4)), id="nan"),
        pytest.param(_ops(lambda t: replace(t, op_index=99, backend="builtin")), id="no such op"),
        pytest.param(_ops(lambda t: replace(t, op_index=-1, backend="builtin")), id="op -1"),
        pytest.param(_walls(float("inf")), id="endless"),
        pytest.param(_walls(-5.0), id="negative wall"),
        pytest.param(lambda t: replace(t, rounds_us=()), id="no rounds"),
        pytest.param(lambda t: replace(t, rounds_us=(*t.rounds_us, ())), id="an empty round"),
        pytest.param(lambda t: replace(t, profiled_rounds_us=()), id="no profiled rounds"),
        pytest.param(lambda t: replace(t, profiled_rounds_us=((1.0,) * 3,)), id="other runs"),
    ],
)
def test_times_that_cannot_be_this_file_s(
    change: Callable[[TimedFile], TimedFile], split_tflite: Path
) -> None:
    timed = change(_timed(split_tflite))
    with pytest.raises(ToolchainError, match="do not belong to its operators") as caught:
        join_timed(MeasureRequest(str(split_tflite)), timed, split_tflite)
    assert str(split_tflite) in str(caught.value)


def test_a_file_that_changed_meanwhile(conv_tflite: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone.tflite"
    gone.write_bytes(conv_tflite.read_bytes())
    timed = _timed(gone)
    gone.unlink()
    with pytest.raises(ModelFileError, match=r"gone\.tflite"):
        join_timed(MeasureRequest(str(gone)), timed, gone)
