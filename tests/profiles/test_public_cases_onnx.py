"""Public .onnx files on which we failed, against onnxruntime itself."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mnv4_deploy.errors import ModelFileError
from mnv4_deploy.profiles.graph.given_inputs import read_given
from mnv4_deploy.profiles.inspection.inspect_onnx import inspect_here
from mnv4_deploy.profiles.measure.measure import measure_here
from mnv4_deploy.profiles.records.profile import MeasureRequest, ModelProfile
from mnv4_deploy.profiles.roofline.analyse import analyse

ort = pytest.importorskip("onnxruntime")
CASES = Path(__file__).parents[3] / "shared" / "cases" / "public"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="the public cases are not there")

RUN = (
    *("FastestDet", "gridsample_topk", "if_branch", "int4_dq_matmul", "loop", "mnv3_block"),
    *("mnv3_pt", "odd_names", "silero_vad", "zero_dim_input"),
)
SILERO = {"input": (1, 512), "state": (2, 1, 128)}


def profiled(name: str, **options: Any) -> ModelProfile:
    shapes = SILERO if name == "silero_vad" else {}
    request = MeasureRequest(str(CASES / f"{name}.onnx"), runs=15, max_seconds=4, shapes=shapes)
    (measurement,) = measure_here([replace(request, **options)])
    return analyse(measurement, None)


@pytest.mark.parametrize("name", RUN)
def test_rows_are_between_nothing_and_the_whole(name: str) -> None:
    profile = profiled(name)
    wall_us = profile.trust.wall_us
    assert all(0 <= layer.latency_us <= 1.001 * wall_us for layer in profile.layers)
    assert -1e-6 <= profile.trust.unattributed_us <= wall_us
    # What the runtime itself says ran, node by node, is in the rows: no more and no less.
    timed = [i for layer in profile.layers for i in layer.timing_indices]
    assert sorted(timed) == list(range(len(profile.measurement.profile.ops)))


@pytest.mark.parametrize("name", RUN)
def test_what_runs_is_what_the_runtime_says(name: str, tmp_path: Path) -> None:
    """onnxruntime's own optimised graph, saved here, with the operators inside others."""
    onnx = pytest.importorskip("onnx")
    facts = inspect_here(str(CASES / f"{name}.onnx"))
    if name == "odd_names":  # which onnxruntime refuses as it is
        assert any("'same'" in note for note in facts.notes)
        assert sum((facts.executed_histogram or {}).values()) > 0
        return
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "o.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(str(CASES / f"{name}.onnx"), options, providers=["CPUExecutionProvider"])
    todo, counts = [onnx.load(str(tmp_path / "o.onnx")).graph], Counter[str]()
    while todo:
        for node in todo.pop().node:
            counts[node.op_type] += 1
            todo += [a.g for a in node.attribute if a.type == a.GRAPH]
    assert facts.executed_histogram == counts
    assert "Constant" not in facts.histogram


def test_silero_counts_the_branch_that_its_sample_rate_takes() -> None:
    """Weights are the file but for its nodes; MACs by hand for 512 samples at 16 kHz."""
    path = CASES / "silero_vad.onnx"
    weights = sum(inspect_here(str(path)).weight_bytes_by_dtype.values())
    assert 0.9 * path.stat().st_size < weights < path.stat().st_size
    convolutions = [
        *((258 * 3, 256), (128 * 3, 129 * 3), (64 * 2, 128 * 3), (64, 64 * 3)),
        *((128, 64 * 3), (1, 128)),
    ]
    lstm = 512 * (128 + 128)
    expected = sum(outputs * taps for outputs, taps in convolutions) + lstm
    assert profiled("silero_vad").total_cost.macs == expected
    slower = profiled(
        "silero_vad",
        shapes={"input": (1, 256), "state": (2, 1, 128)},
        inputs=read_given(["sr=8000"]),
    )
    assert 0 < slower.total_cost.macs < expected
    with pytest.raises(ModelFileError, match="--shape input=1x512 --shape state=2x1x128"):
        measure_here([MeasureRequest(str(path))])


def test_loop_and_branch_are_counted() -> None:
    assert profiled("loop").total_cost.macs == 50 * 64 * 64
    assert profiled("if_branch").measurement.graph.weight_bytes == {"float32": 262148}
    taken = profiled("if_branch", inputs=read_given(["x=1"]))
    assert taken.total_cost.macs == 256 * 256


def test_half_a_byte_for_four_bits() -> None:
    facts = inspect_here(str(CASES / "int4_dq_matmul.onnx"))
    assert facts.weight_bytes_by_dtype["int4"] == 256 * 128 // 2


def test_a_profile_of_branches_is_json() -> None:
    from mnv4_deploy.reports.profile.profile_json import profile_to_dict

    document = json.loads(json.dumps(profile_to_dict(profiled("silero_vad")), allow_nan=False))
    inside = [op for op in document["file_operators"] if op["holder"] is not None]
    assert {document["file_operators"][op["holder"]]["op_type"] for op in inside} == {"If"}
    assert any(op["runs"] == 0 for op in inside)
