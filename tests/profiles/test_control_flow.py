"""Branches, loops and functions: counted where they run, and never more time than there is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mnv4_deploy.errors import ModelFileError
from mnv4_deploy.profiles.costs.group import group_costs
from mnv4_deploy.profiles.graph.given_inputs import read_given
from mnv4_deploy.profiles.graph.onnx.read import read_onnx
from mnv4_deploy.profiles.inspection.inspect_onnx import inspect_here
from mnv4_deploy.profiles.measure.measure import measure_here
from mnv4_deploy.profiles.records.inputs import GivenInputs
from mnv4_deploy.profiles.records.profile import MeasureRequest, ModelProfile
from mnv4_deploy.profiles.roofline.analyse import analyse

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from tests.profiles import control_flow as flow  # noqa: E402

SIDE = 64
PRODUCT = SIDE * SIDE
WEIGHTS = 4 * PRODUCT
YES = read_given(["c=1"])


def profiled(path: Path, given: GivenInputs | None = None, runs: int = 12) -> ModelProfile:
    request = MeasureRequest(str(path), runs=runs, warmup=2, inputs=given or {})
    (measurement,) = measure_here([request])
    return analyse(measurement, None)


def macs(path: Path, given: GivenInputs | None = None) -> int:
    graph = read_onnx(path, given=given, whole=True)
    costs = group_costs(graph, [(op.index,) for op in graph.ops])
    return sum(cost.macs for cost in costs if cost)


FILES: dict[str, tuple[Callable[[Path], Path], GivenInputs, int]] = {
    "if, the branch with the product": (lambda p: flow.if_file(p, SIDE, constant=False), YES, 1),
    "if, the other branch": (lambda p: flow.if_file(p, SIDE, constant=False), {}, 0),
    "if that is decided beforehand": (lambda p: flow.if_file(p, SIDE, constant=True), {}, 1),
    "loop": (lambda p: flow.loop_file(p, SIDE, 7), {}, 7),
    "loop that never runs": (lambda p: flow.loop_file(p, SIDE, 0), {}, 0),
    "scan": (lambda p: flow.scan_file(p, SIDE, 5), {}, 5),
    "branches in a loop": (lambda p: flow.loop_of_ifs_file(p, SIDE, 6), {}, 5),
    "function": (lambda p: flow.function_file(p, SIDE, 3), {}, 3),
}


@pytest.mark.parametrize("name", FILES)
def test_products_count_as_often_as_they_run(name: str, tmp_path: Path) -> None:
    make, given, products = FILES[name]
    path = make(tmp_path / "m.onnx")
    assert macs(path, given) == products * PRODUCT
    profile = profiled(path, given)
    assert profile.total_cost.macs == products * PRODUCT
    assert profile.total_cost.weight_bytes >= (WEIGHTS if products else 0)
    assert not profile.unknown_op_types


@pytest.mark.parametrize("name", FILES)
def test_no_layer_takes_more_than_the_model(name: str, tmp_path: Path) -> None:
    make, given, _ = FILES[name]
    profile = profiled(make(tmp_path / "m.onnx"), given)
    wall_us = profile.trust.wall_us
    assert all(0 <= layer.latency_us <= 1.001 * wall_us for layer in profile.layers)
    assert profile.trust.unattributed_us >= -1e-6
    assert profile.trust.sum_percent <= 100.1


@pytest.mark.parametrize("statistic", ["min", "p10", "p50", "mean"])
def test_no_statistic_makes_layers_longer_than_the_model(statistic: str, tmp_path: Path) -> None:
    path = flow.loop_file(tmp_path / "m.onnx", 16, 40)
    (measurement,) = measure_here([MeasureRequest(str(path), runs=12, warmup=2)])
    profile = analyse(measurement, None, statistic)  # type: ignore[arg-type]
    assert profile.trust.unattributed_us >= -1e-6
    assert all(layer.latency_us <= 1.001 * profile.trust.wall_us for layer in profile.layers)


def test_operators_of_a_large_body_have_rows_of_their_own(tmp_path: Path) -> None:
    """A product of 1024 x 1024 takes far longer than the profiler needs to write it down."""
    profile = profiled(flow.loop_file(tmp_path / "m.onnx", 1024, 4))
    by_type = {layer.op_type: layer for layer in profile.layers if layer.samples_us}
    assert by_type["MatMul"].runs == 4
    assert by_type["MatMul"].cost is not None
    assert by_type["MatMul"].cost.macs == 4 * 1024 * 1024
    assert by_type["MatMul"].cost.weight_bytes == 4 * 1024 * 1024
    assert by_type["MatMul"].latency_us > by_type["Loop"].latency_us
    assert by_type["Loop"].compute == "control"
    assert by_type["Loop"].cost is not None
    assert by_type["Loop"].cost.bytes == 0


def test_what_cannot_be_split_is_one_row(tmp_path: Path) -> None:
    """Sixty rounds of three operators of 16 values: the profiler takes ten times their time."""
    profile = profiled(flow.loop_file(tmp_path / "m.onnx", 16, 60))
    (row,) = [layer for layer in profile.layers if layer.backend != "runtime"]
    assert (row.op_type, row.compute) == ("Loop", "float32")
    assert row.cost is not None
    assert row.cost.macs == 60 * 16 * 16
    assert sorted(row.file_op_types) == ["Identity", "Loop", "MatMul", "Tanh"]


def test_the_branch_that_ran_is_in_the_place_of_a_decided_if(tmp_path: Path) -> None:
    profile = profiled(flow.if_file(tmp_path / "m.onnx", SIDE, constant=True))
    *nodes, call = profile.layers
    assert [layer.op_type for layer in nodes if layer.samples_us] == ["MatMul", "Relu", "Neg"]
    assert all(layer.op_indices for layer in nodes)
    assert (call.backend, call.op_indices) == ("runtime", ())


def test_a_branch_that_did_not_run_is_no_layer(tmp_path: Path) -> None:
    profile = profiled(flow.if_file(tmp_path / "m.onnx", SIDE, constant=False), YES)
    nodes = {layer.op_type for layer in profile.layers if layer.backend != "runtime"}
    assert nodes == {"If", "MatMul", "Relu", "Neg"}


def test_a_tensor_that_grows_makes_totals_a_least(tmp_path: Path) -> None:
    path = flow.growing_loop_file(tmp_path / "m.onnx", SIDE, 5)
    graph = read_onnx(path, whole=True)
    assert {op.kind: (op.runs, op.varies) for op in graph.ops if op.holder == 0} == {
        "Identity": (5, False),
        "Concat": (5, True),
        "Neg": (5, True),
    }
    assert profiled(path).cost_is_least
    assert not profiled(flow.loop_file(tmp_path / "n.onnx", SIDE, 5)).cost_is_least


def test_inspect_lists_what_is_inside(tmp_path: Path) -> None:
    facts = inspect_here(str(flow.loop_of_ifs_file(tmp_path / "m.onnx", SIDE, 3)))
    assert facts.histogram == {
        **dict.fromkeys(("Loop", "Identity", "Greater", "If", "MatMul", "Relu", "Tanh"), 1)
    }
    assert facts.weight_bytes_by_dtype == {"float32": WEIGHTS, "int64": 16}
    assert facts.executed_histogram is not None
    assert facts.executed_histogram["MatMul"] == 1
    computes = {op.kind: op.compute for op in facts.operators}
    assert computes["Loop"] == computes["If"] == "control"
    assert computes["MatMul"] == computes["Tanh"] == "float32"
    facts = inspect_here(str(flow.function_file(tmp_path / "f.onnx", SIDE, 3)))
    assert facts.histogram == {"MatMul": 3, "Relu": 3}
    assert {op.compute for op in facts.operators} == {"float32"}


def test_constants_inside_branches_are_weights_and_no_operators(tmp_path: Path) -> None:
    weights = onnx.numpy_helper.from_array(np.ones((8, 8), np.float32))
    out = flow.value("o", flow.FLOAT, [1, 8])
    with_weights = onnx.helper.make_graph(
        [flow.node("Constant", [], ["k"], value=weights), flow.node("MatMul", ["x", "k"], ["o"])],
        "t",
        [],
        [out],
    )
    other = onnx.helper.make_graph([flow.node("Neg", ["x"], ["o"])], "e", [], [out])
    path = flow.save(
        tmp_path / "m.onnx",
        [flow.node("If", ["c"], ["y"], then_branch=with_weights, else_branch=other)],
        [],
        side=8,
        inputs=[flow.value("c", flow.BOOL, [1])],
    )
    facts = inspect_here(str(path))
    assert facts.histogram == {"If": 1, "MatMul": 1, "Neg": 1}
    assert facts.weight_bytes_by_dtype == {"float32": 256}
    assert read_onnx(path, whole=True).weight_bytes == {"float32": 256}


def test_functions_that_grow_without_end_are_refused(tmp_path: Path) -> None:
    """Each of 20 functions calls the one before it ten times."""
    functions = []
    for level in range(20):
        kind = dict(domain="own") if level else {}
        name = f"F{level - 1}" if level else "Neg"
        values = ["a", *(f"v{i}" for i in range(9)), "b"]
        calls = [flow.node(name, [values[i]], [values[i + 1]], **kind) for i in range(10)]
        opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("own", 1)]
        functions.append(
            onnx.helper.make_function("own", f"F{level}", ["a"], ["b"], calls, opsets)
        )
    path = flow.save(
        tmp_path / "m.onnx",
        [flow.node("F19", ["x"], ["y"], domain="own")],
        [],
        side=4,
        functions=functions,
    )
    with pytest.raises(ModelFileError, match="more than 100,000 nodes"):
        read_onnx(path, whole=True)
    with pytest.raises(ModelFileError, match="more than 100,000 nodes"):
        inspect_here(str(path))
