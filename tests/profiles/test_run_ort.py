from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnv4_deploy.errors import (
    InputError,
    MissingLibraryError,
    ModelFileError,
    ToolchainError,
    UnsupportedError,
)
from mnv4_deploy.profiles.measure.measure import profile_file, time_here
from mnv4_deploy.profiles.records.inputs import RunSettings
from mnv4_deploy.profiles.records.profile import MeasureRequest
from mnv4_deploy.profiles.records.timing import OpTiming
from mnv4_deploy.profiles.runtimes.ort.overhead import (
    call_around,
    profiler_cost_us,
    without_profiler,
)
from mnv4_deploy.profiles.runtimes.ort.profile_file import NodeEvent, merge, read_profile, runs_of
from mnv4_deploy.profiles.runtimes.ort.run import OrtRunner, optimized_graph

onnx = pytest.importorskip("onnx")
_FLOAT = onnx.TensorProto.FLOAT


def _save(path: Path, nodes: list[Any], inputs: list[Any], output: str, **extra: Any) -> Path:
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes, "net", [value(*spec) for spec in inputs], [value(output, _FLOAT, None)], **extra
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, str(path))
    return path


def test_node_times(conv_onnx: Path) -> None:
    (timed,) = time_here([MeasureRequest(str(conv_onnx), runs=20, warmup=3)])
    profile = timed.profile
    executed = [node.op_type for node in optimized_graph(conv_onnx).graph.node]
    nodes = [op.tag for op in profile.ops if op.backend == "onnxruntime"]
    assert sorted(nodes) == sorted(executed)
    assert all(len(op.samples_us) == 20 for op in profile.ops)
    assert sum(map(len, timed.rounds_us)) == sum(map(len, timed.profiled_rounds_us)) == 20
    assert 0 < profile.operators_us <= 1.1 * np.median(np.concatenate(timed.profiled_rounds_us))


def test_only_recorded_runs_count(conv_onnx: Path) -> None:
    """The profiler writes all runs; a known first one must not be among the samples."""
    with closing(OrtRunner(conv_onnx)) as runner:
        walls = [runner.run_profiled(record=i in (2, 5)) for i in range(6)]
        timings = runner.timings()
    assert all(len(t.samples_us) == 2 for t in timings)
    for sample, run in enumerate((2, 5)):
        assert sum(t.samples_us[sample] for t in timings) <= walls[run]


def test_int8_kernels_show(qdq_onnx: Path) -> None:
    tags = [op.tag for op in profile_file(qdq_onnx, runs=3).ops]
    assert tags.count("QLinearConv") == 2
    assert tags.count("Erf") == 1


def test_same_and_missing_names_are_told_apart(tmp_path: Path) -> None:
    nodes = [
        onnx.helper.make_node("Erf", ["x"], ["a"], name="same"),
        onnx.helper.make_node("Sin", ["a"], ["b"], name="same"),
        onnx.helper.make_node("Erf", ["b"], ["c"]),
        onnx.helper.make_node("Erf", ["c"], ["y"], name="same"),
    ]
    path = _save(tmp_path / "m.onnx", nodes, [("x", _FLOAT, [1, 8])], "y")
    with closing(OrtRunner(path)) as runner:
        runner.run_profiled(record=True)
        timings = runner.timings()
    assert [t.tag for t in timings] == ["Erf", "Sin", "Erf", "Erf"]
    assert len({t.name for t in timings}) == 4


def test_dynamic_shape(tmp_path: Path) -> None:
    nodes = [onnx.helper.make_node("Erf", ["x"], ["y"], name="erf")]
    path = _save(tmp_path / "m.onnx", nodes, [("x", _FLOAT, ["n", 3, "h", "w"])], "y")
    with pytest.raises(InputError, match=r"dynamic shape.*--shape x="):
        OrtRunner(path)
    with closing(OrtRunner(path, RunSettings(shapes={"": (2, 3, 5, 7)}))) as runner:
        assert runner._feeds["x"].shape == (2, 3, 5, 7)
        runner.run()
    with pytest.raises(UnsupportedError, match="no input z"):
        OrtRunner(path, RunSettings(shapes={"z": (1, 3, 5, 7)}))


def test_integer_input_is_a_valid_index(tmp_path: Path) -> None:
    nodes = [onnx.helper.make_node("Gather", ["table", "i"], ["y"], name="gather")]
    table = onnx.numpy_helper.from_array(np.ones((4, 2), np.float32), "table")
    inputs = [("i", onnx.TensorProto.INT64, [3])]
    path = _save(tmp_path / "m.onnx", nodes, inputs, "y", initializer=[table])
    with closing(OrtRunner(path)) as runner:
        runner.run()


def test_string_input(tmp_path: Path) -> None:
    nodes = [
        onnx.helper.make_node("Shape", ["s"], ["n"], name="shape"),
        onnx.helper.make_node("Cast", ["n"], ["y"], to=_FLOAT, name="cast"),
    ]
    path = _save(tmp_path / "m.onnx", nodes, [("s", onnx.TensorProto.STRING, [3])], "y")
    with pytest.raises(UnsupportedError, match=r"Input s is a tensor\(string\)"):
        OrtRunner(path)


def test_numbers_that_numpy_has_not(tmp_path: Path) -> None:
    nodes = [onnx.helper.make_node("Cast", ["b"], ["y"], to=_FLOAT, name="cast")]
    path = _save(tmp_path / "m.onnx", nodes, [("b", onnx.TensorProto.BFLOAT16, [3])], "y")
    with pytest.raises(UnsupportedError, match=r"Input b is a tensor\(bfloat16\)"):
        OrtRunner(path)


def test_sequence_input(tmp_path: Path) -> None:
    nodes = [onnx.helper.make_node("ConcatFromSequence", ["s"], ["y"], axis=0, name="concat")]
    path = _save(tmp_path / "m.onnx", nodes, [], "y")
    model = onnx.load(path)
    model.graph.input.append(onnx.helper.make_tensor_sequence_value_info("s", _FLOAT, None))
    onnx.save(model, str(path))
    with pytest.raises(UnsupportedError, match=r"Input s is a seq\(tensor\(float\)\)"):
        OrtRunner(path)


def test_what_fails_in_a_run_alone(tmp_path: Path) -> None:
    """Six numbers do not fit the shape [0], which the runtime learns in the run."""
    nodes = [onnx.helper.make_node("Reshape", ["x", "shape"], ["y"], name="reshape")]
    inputs = [("x", _FLOAT, [2, 3]), ("shape", onnx.TensorProto.INT64, [1])]
    path = _save(tmp_path / "m.onnx", nodes, inputs, "y")
    with closing(OrtRunner(path)) as runner:
        for call in (runner.run, lambda: runner.run_profiled(record=True)):
            with pytest.raises(
                ModelFileError, match=r"onnxruntime .* cannot run .*m\.onnx \(Reshape "
            ):
                call()


def test_unknown_operator_is_named(tmp_path: Path) -> None:
    nodes = [onnx.helper.make_node("Warp", ["x"], ["y"], name="warp", domain="com.example")]
    path = _save(tmp_path / "m.onnx", nodes, [("x", _FLOAT, [1])], "y")
    with pytest.raises(ModelFileError, match=r"cannot load .*m\.onnx.*com\.example"):
        OrtRunner(path)


def test_not_a_model(tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"nothing")
    with pytest.raises(ModelFileError, match=r"bad\.onnx") as caught:
        OrtRunner(path)
    assert "\n" not in str(caught.value)


def _node(name: str, start_us: float, elapsed_us: float) -> dict[str, Any]:
    return {
        "cat": "Node",
        "name": f"{name}_kernel_time",
        "ts": start_us,
        "dur": elapsed_us,
        "args": {"op_name": name.upper()},
    }


def _graph(start_us: float, elapsed_us: float) -> dict[str, Any]:
    return {
        "cat": "Session",
        "name": "SequentialExecutor::Execute",
        "ts": start_us,
        "dur": elapsed_us,
    }


_RUN = {"cat": "Session", "name": "model_run", "ts": 0, "dur": 0}


def test_nodes_of_a_branch_are_taken_from_the_node_that_holds_it() -> None:
    """Events come in order of their ends; "if" holds a graph, in which "loop" holds another."""
    events = [
        {"cat": "Session", "name": "session_initialization", "ts": 0, "dur": 9},
        _node("first", 11, 4),
        _node("inner", 20, 2),
        _node("body", 24, 1),
        _graph(23, 3),
        _graph(27, 0),
        _node("loop", 22, 6),
        _graph(19, 10),
        _node("if", 17, 14),
        _node("last", 33, 1),
        _graph(10, 30),
        _RUN,
        _node("first", 51, 4),
        _graph(50, 30),
        _RUN,
    ]
    runs = runs_of(events)
    assert [[e.name for e in run.nodes] for run in runs] == [
        ["first", "if", "inner", "loop", "body", "last"],
        ["first"],
    ]
    # 14 us of the If without 2 and 6 inside, 6 us of the loop without 1.
    first = runs[0].nodes
    assert [e.elapsed_us for e in first] == [4, 6, 2, 5, 1, 1]
    assert [e.holder for e in first] == ["", "", "if", "if", "loop", ""]
    assert sum(e.elapsed_us for e in first) == 4 + 14 + 1
    merged = merge([run.nodes for run in runs], "m.onnx")
    assert {t.name: t.samples_us for t in merged}["last"] == (1, 0)


def test_rounds_of_a_loop_are_added_up() -> None:
    """Two rounds of 3 and 4 us in a loop of 20; the second starts where the first ends."""
    events = [
        _node("step", 12, 3),
        _graph(11, 5),
        _node("step", 16, 4),
        _graph(16, 5),
        {**_node("loop", 10, 20), "args": {"op_name": "Loop"}},
        _graph(9, 22),
        _RUN,
    ]
    (run,) = runs_of(events)
    assert [(e.name, e.elapsed_us, e.runs) for e in run.nodes] == [("loop", 13, 1), ("step", 7, 2)]
    assert run.nodes[0].held_runs == 2
    assert run.span_us == 20


def test_no_times_at_all() -> None:
    with pytest.raises(ToolchainError, match="no node times"):
        merge([()], "m.onnx")


def test_real_branches(tmp_path: Path) -> None:
    def branch(name: str, kind: str) -> Any:
        made = onnx.helper.make_tensor_value_info(name, _FLOAT, [1, 4])
        node = onnx.helper.make_node(kind, ["x"], [name], name=f"inside_{name}")
        return onnx.helper.make_graph([node], name, [], [made])

    nodes = [
        onnx.helper.make_node(
            "If",
            ["flag"],
            ["picked"],
            name="choice",
            then_branch=branch("yes", "Erf"),
            else_branch=branch("no", "Sin"),
        ),
        onnx.helper.make_node("Erf", ["picked"], ["y"], name="last"),
    ]
    inputs = [("x", _FLOAT, [1, 4]), ("flag", onnx.TensorProto.BOOL, [1])]
    path = _save(tmp_path / "m.onnx", nodes, inputs, "y")
    with closing(OrtRunner(path)) as runner:
        for _ in range(3):
            runner.run_profiled(record=True)
        timings = runner.timings()
    kinds = [(t.name, t.tag) for t in timings]
    # The flag is made up as false.
    assert kinds == [("choice", "If"), ("inside_no", "Sin"), ("last", "Erf")]


def _runs(
    times_us: list[float], gap_us: float, count: int = 3, tensors: list[int] | None = None
) -> list[tuple[NodeEvent, ...]]:
    run, start_us = [], 0.0
    for index, time_us in enumerate(times_us):
        among = tensors[index] if tensors else 3
        gap = gap_us if index else None
        run.append(NodeEvent(f"n{index}", "Conv", start_us, time_us, among, gap))
        start_us += time_us + gap_us
    return [tuple(run)] * count


def _each_us(runs: list[tuple[NodeEvent, ...]], plain_us: list[float]) -> list[float]:
    """What is taken off each node."""
    corrected = without_profiler(runs, profiler_cost_us(runs, plain_us))
    return [a.elapsed_us - b.elapsed_us for a, b in zip(runs[0], corrected[0], strict=True)]


def test_profiler_cost_is_what_the_nodes_have_in_excess() -> None:
    """Four nodes of 100, 50, 20 and 1 us, each made 5 us longer by the profiler."""
    runs = _runs([105, 55, 25, 6], gap_us=4)
    assert _each_us(runs, [171]) == pytest.approx([5, 5, 5, 5])


def test_profiler_cost_grows_with_the_tensors_of_a_node() -> None:
    """A constant of 2.5 and one for each: 9 tensors weigh 11.5, 2 weigh 4.5; 16 us in all."""
    runs = _runs([111.5, 54.5], gap_us=20, tensors=[9, 2])
    assert _each_us(runs, [150]) == pytest.approx([11.5, 4.5])


def test_profiler_cost_leaves_no_negative_time() -> None:
    """The third node holds 2 us only, so the other two share the rest: (30 - 2) / 2 each."""
    runs = _runs([100, 50, 2], gap_us=20)
    assert _each_us(runs, [122]) == pytest.approx([14, 14, 2])


def test_profiler_cost_is_not_a_fudge_factor() -> None:
    """An excess far above the profiler's work between nodes has another cause and stays."""
    runs = _runs([100, 100], gap_us=3)
    assert _each_us(runs, [100]) == pytest.approx([6, 6])
    assert _each_us(runs, [200]) == pytest.approx([0, 0])
    assert _each_us(runs, [250]) == pytest.approx([0, 0])
    assert profiler_cost_us([], plain_us=[250]) == 0
    assert profiler_cost_us(runs, plain_us=[]) == 0


def test_interrupted_runs_do_not_hide_the_profilers_cost() -> None:
    """Half of the plain runs were interrupted for a millisecond, and a profiled one."""
    quiet, slow = _runs([105, 55], 4, 1), _runs([1105, 55], 4, 1)
    cost_us = profiler_cost_us([*quiet * 3, *slow], plain_us=[150, 1150, 150, 1150])
    assert cost_us * (2.5 + 3) == pytest.approx(5)


@pytest.mark.parametrize("content", ["", "[{", '{"a": 1}', "3"])
def test_unreadable_profile(tmp_path: Path, content: str) -> None:
    path = tmp_path / "profile.json"
    path.write_text(content)
    if content.startswith("{"):
        assert read_profile(path) == []
        return
    with pytest.raises(ToolchainError, match="cannot be read"):
        read_profile(path)


def test_measuring_goes_without_telemetry(conv_onnx: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    code = (
        "import sys; from mnv4_deploy.profiles.runtimes.ort.run import OrtRunner;"
        "runner = OrtRunner(sys.argv[1]); runner.run(); runner.close()"
    )
    variables = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home)}
    variables.pop("ORT_DISABLE_TELEMETRY", None)
    subprocess.run([sys.executable, "-c", code, str(conv_onnx)], env=variables, check=True)
    assert not list(home.rglob("*"))


def test_without_onnx_the_package_to_install_is_named(conv_onnx, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingLibraryError, match=r"'\.\[onnx\]'"):
        OrtRunner(conv_onnx)


def _node_timings(*least_us: float) -> list[OpTiming]:
    return [OpTiming("Conv", "onnxruntime", (us + 3, us), name=f"n{us}") for us in least_us]


def test_the_call_takes_what_the_nodes_leave_over() -> None:
    """Of 30 us two nodes take 12; around them it is 9 us in the faster of two profiled runs."""
    (call,) = call_around(_node_timings(5, 7), [11, 9], [31, 30])
    assert (call.tag, call.backend) == ("InferenceSession.run", "runtime")
    assert call.samples_us == (11, 9)


def test_the_profiler_works_around_the_nodes_too() -> None:
    """Of 15 us two nodes leave 3, a third of what it is with the profiler."""
    (call,) = call_around(_node_timings(5, 7), [12, 9], [15, 16])
    assert call.samples_us == pytest.approx((4, 3))


def test_a_call_of_which_nothing_is_left_over() -> None:
    for around_us, plain_us in (([12, 9], [11, 13]), ([12, 0], [15, 16])):
        (call,) = call_around(_node_timings(5, 7), around_us, plain_us)
        assert call.samples_us == (0, 0)
    assert call_around(_node_timings(5, 7), [12, 9], []) == ()
    assert call_around([], [], [15]) == ()


def test_rows_of_a_tiny_file_add_up(tmp_path: Path) -> None:
    """The call itself takes most of what one addition of four numbers takes."""
    nodes = [onnx.helper.make_node("Add", ["x", "x"], ["y"], name="add")]
    path = _save(tmp_path / "m.onnx", nodes, [("x", _FLOAT, [1, 4])], "y")
    (timed,) = time_here([MeasureRequest(str(path), runs=50)])
    least_us = min(np.concatenate(timed.rounds_us))
    rows = [min(op.samples_us) for op in timed.profile.ops]
    assert [op.backend for op in timed.profile.ops] == ["onnxruntime", "runtime"]
    assert 0.95 * least_us <= sum(rows) <= 1.001 * least_us
