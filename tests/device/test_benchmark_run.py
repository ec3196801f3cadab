"""Files timed through the tool are joined as those that LiteRT's profiler timed directly.

The device is LiteRT on this machine behind a shell that prints what the tool would.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("ai_edge_litert.schema_py_generated")
pytest.importorskip("google.protobuf")

from mnv4_deploy.device.android.shell import Completed
from mnv4_deploy.device.benchmark_model.command import cpu_mask, parse_help, profile_form
from mnv4_deploy.device.benchmark_model.csv_profile import parse_csv
from mnv4_deploy.device.benchmark_model.order import in_run_order
from mnv4_deploy.device.benchmark_model.proto_profile import parse_proto
from mnv4_deploy.device.benchmark_model.records import OpRow, OpTable
from mnv4_deploy.device.benchmark_model.run import read_options, timed
from mnv4_deploy.device.benchmark_model.run_log import parse_log
from mnv4_deploy.device.benchmark_model.text_profile import parse_text
from mnv4_deploy.device.benchmark_model.to_timed import Profiled, to_timed
from mnv4_deploy.errors import (
    DeployError,
    ModelFileError,
    OutputError,
    ToolchainError,
    UnsupportedError,
)
from mnv4_deploy.profiles.graph.tflite.read import read_tflite
from mnv4_deploy.profiles.join.xnnpack import join_xnnpack
from mnv4_deploy.profiles.machine.products import Product
from mnv4_deploy.profiles.machine.tflite_models import write_tflite
from mnv4_deploy.profiles.measure.join import join_timed
from mnv4_deploy.profiles.records.profile import MeasureRequest, TimedFile
from mnv4_deploy.profiles.records.timing import OpTiming
from mnv4_deploy.profiles.runtimes.litert.xnnpack_events import merge
from tests.device.litert_as_tool import BINARY, LocalShell, output_names
from tests.device.planted_models import write_chain
from tests.device.tool_output import log, proto, report, summarize
from tests.profiles.planted_tflite import record

FORMS = ("proto", "csv", "text")
WITHOUT = {
    "proto": frozenset[str](),
    "csv": frozenset({"op_profiling_output_mode"}),
    "text": frozenset({"op_profiling_output_mode", "profiling_output_csv_file"}),
}
SHARED = Path(__file__).parents[3] / "shared" / "data" / "third-party"
_RUNS = 5


@pytest.fixture
def shell(tmp_path: Path) -> LocalShell:
    home = tmp_path / "device"
    home.mkdir()
    return LocalShell(home)


def ask(shell: LocalShell, path: Path, form: str = "proto", **wanted: object) -> TimedFile:
    graph = f"{shell.folder}/model-0.tflite"
    if shell.failing is None:
        shell.push(path, graph)
        options = read_options(shell, BINARY)
    else:
        options = parse_help("\t--graph=\n\t--use_xnnpack=true\n\t--enable_op_profiling=false\n")
    request = MeasureRequest(str(path), runs=9, max_seconds=4.0, **wanted)  # type: ignore[arg-type]
    return timed(shell, request, binary=BINARY, graph=graph, options=options - WITHOUT[form])


def through_the_tool(path: Path, form: str) -> tuple[TimedFile, list[OpTiming]]:
    """The file's events printed by the tool and read again, and the direct timings."""
    runs = record(path, _RUNS)
    details = summarize(runs, output_names(path))
    table = {
        "proto": lambda: parse_proto(proto(details, _RUNS)),
        "csv": lambda: parse_csv(report(details, _RUNS, csv=True)),
        "text": lambda: parse_text(report(details, _RUNS, csv=False)),
    }[form]()
    run_log = parse_log(log([9, 8], [7, 8, 6], prefix="", new=False))
    request = MeasureRequest(str(path), runs=_RUNS)
    found = to_timed(request, [run_log], [Profiled(run_log, table)])
    return found, list(merge(runs, path))


def whole_models(tmp_path: Path) -> dict[str, Path]:
    """Files whose operators all have names of their own."""
    models = {
        "chain": write_chain(tmp_path / "chain.tflite", "AMSAMSAMSAMSAMS"),
        "two partitions": write_chain(tmp_path / "two.tflite", "AMSCSAM"),
        "builtin at both ends": write_chain(tmp_path / "ends.tflite", "CAMSC"),
        "int8": write_tflite(tmp_path / "int8.tflite", Product(6, 7, 16, 16, kernel=3), "int8"),
        "dynamic": write_tflite(
            tmp_path / "dynamic.tflite", Product(6, 7, 16, 16, 0), "int8 dynamic"
        ),
    }
    third = sorted(SHARED.glob("tf2_mobilenet*.tflite"))
    return models | {path.stem: path for path in third}


@pytest.mark.parametrize("form", FORMS)
def test_joined_layers_are_those_of_the_direct_profile(tmp_path, form):
    for name, path in whole_models(tmp_path).items():
        found, direct = through_the_tool(path, form)
        ops = found.profile.ops
        assert [(t.tag, t.backend, t.partition, t.op_index) for t in ops] == [
            (t.tag, t.backend, t.partition, t.op_index) for t in direct
        ], name
        graph = read_tflite(path)
        assert join_xnnpack(graph, ops) == join_xnnpack(graph, direct), name
        for op, expected in zip(ops, direct, strict=True):
            samples = expected.samples_us
            if form == "proto":
                assert op.samples_us == (min(samples),)
            else:  # the text has three decimals of a millisecond
                average = sum(samples) / len(samples)
                tolerance = 0.51 if form == "text" else 1e-4 * average + 1e-3
                assert op.samples_us[0] == pytest.approx(average, abs=tolerance)
        assert ("least" if form == "proto" else "average") in found.notes[0]


def test_operators_added_up_over_partitions_are_put_back(tmp_path):
    path = write_chain(tmp_path / "m.tflite", "AMCASMCMCASM")
    found, direct = through_the_tool(path, "proto")
    ops = found.profile.ops
    assert [(t.tag, t.backend, t.partition, t.op_index) for t in ops] == [
        (t.tag, t.backend, t.partition, t.op_index) for t in direct
    ]
    assert found.profile.partitions == 4
    graph = read_tflite(path)
    assert join_xnnpack(graph, ops) == join_xnnpack(graph, direct)
    # "Add (ND):0" ran three times: each has the average of all calls.
    same = [i for i, t in enumerate(direct) if t.tag.startswith("Add") and t.backend == "xnnpack"]
    calls = [us for i in same for us in direct[i].samples_us]
    assert [ops[i].samples_us[0] for i in same] == pytest.approx([sum(calls) / len(calls)] * 3)
    assert "operators have the same kernel and number" in found.notes[-1]


@pytest.mark.parametrize("form", ["csv", "text"])
def test_without_places_the_operators_are_left_out(tmp_path, form):
    path = write_chain(tmp_path / "m.tflite", "AMCASMCMCASM")
    found, _ = through_the_tool(path, form)
    assert found.profile.ops == found.profiled_rounds_us == ()
    assert found.rounds_us == ((6.0,),)
    assert "cannot be taken apart" in found.notes[-1]
    measured = join_timed(MeasureRequest(str(path)), found, path)
    assert measured.layers == ()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("new", [True, False])
def test_a_file_timed_over_there_is_a_measurement_here(shell, tmp_path, form, new):
    shell.new = new
    path = write_chain(tmp_path / "m.tflite", "AMSCSAM")
    found = ask(shell, path, form, cpus=(0, 3))
    assert found.cpus == (0, 3)
    assert [len(batch) for batch in found.rounds_us] == [1, 1, 1]
    assert len(found.profiled_rounds_us) == len(shell.recorded) == 3
    measured = join_timed(MeasureRequest(str(path)), found, path)
    kinds = [layer.op_type for layer in measured.layers if layer.backend != "runtime"]
    assert kinds == ["ADD", "MUL", "SUB", "CUMSUM", "SUB", "ADD", "MUL"]
    assert measured.runtime == "LiteRT benchmark_model"
    assert "XNNPACK has no CUMSUM" in measured.refusals[3]
    # Each sample is that of one invocation.
    for at, op in enumerate(found.profile.ops):
        calls = [[run[at].elapsed_us for run in runs] for runs in shell.recorded]
        rest = 0.5 if op.backend == "xnnpack" else 0.0
        expected = [(min(c) if form == "proto" else sum(c) / len(c)) + rest for c in calls]
        tolerance = 0.51 if form == "text" else 1e-3  # three decimals, or six digits
        assert op.samples_us == pytest.approx(expected, rel=1e-5, abs=tolerance)


def test_commands_take_turns_and_share_runs_and_time(shell, tmp_path):
    ask(shell, write_chain(tmp_path / "m.tflite", "AM"), cpus=(4, 5, 6, 7), threads=2)
    assert shell.commands[0] == [BINARY, "--help"]
    plain, profiled = shell.commands[1::2], shell.commands[2::2]
    assert len(plain) == len(profiled) == 3
    shared = [
        "taskset", "f0", BINARY,
        f"--graph={shell.folder}/model-0.tflite", "--num_threads=2", "--use_xnnpack=true",
        "--warmup_runs=5", "--num_runs=3", "--warmup_min_secs=0", "--min_secs=0",
        "--max_secs=0.666667",
    ]  # fmt: skip
    assert plain == [shared] * 3
    assert profiled == [
        [
            *shared, "--enable_op_profiling=true", "--max_profiling_buffer_entries=65536",
            "--op_profiling_output_mode=proto",
            f"--op_profiling_output_file={shell.folder}/profile",
        ]
    ] * 3  # fmt: skip


def test_cpu_masks():
    assert [cpu_mask(c) for c in ((0,), (7,), (0, 1, 2, 3), (4, 5, 6, 7), (35,))] == [
        "1", "80", "f", "f0", "800000000",
    ]  # fmt: skip


def test_options_decide_the_form_of_the_profile(shell):
    options = read_options(shell, BINARY)
    assert {"graph", "use_xnnpack", "op_profiling_output_mode"} <= options
    assert [profile_form(options - WITHOUT[form]) for form in FORMS] == list(FORMS)
    assert profile_form(options - {"enable_op_profiling"}) == ""
    assert parse_help("no such thing --graph=x") == frozenset()


def test_a_build_without_profiler_gives_whole_runs(shell, tmp_path):
    path = write_chain(tmp_path / "m.tflite", "AM")
    options = read_options(shell, BINARY) - {"enable_op_profiling"}
    shell.push(path, f"{shell.folder}/m")
    request = MeasureRequest(str(path), runs=4)
    found = timed(shell, request, binary=BINARY, graph=f"{shell.folder}/m", options=options)
    assert len(found.rounds_us) == 3
    assert found.profile.ops == found.profiled_rounds_us == ()
    assert "no times of operators" in found.notes[-1]


def test_open_dimensions_are_given(shell, tmp_path):
    path = write_tflite(tmp_path / "m.tflite", Product(6, 7, 16, 16), "float32")
    ask(shell, path)
    assert not any("--input_layer" in flag for command in shell.commands for flag in command)
    with pytest.raises(UnsupportedError, match="elsewhere"):
        ask(shell, path, shapes={"elsewhere": (1, 2)})
    dynamic = write_chain(tmp_path / "dynamic.tflite", "AM", dynamic=True)
    with pytest.raises(UnsupportedError, match="comma"):
        ask(shell, dynamic, shapes={"": (3, 64)})
    named = write_chain(tmp_path / "named.tflite", "AM", dynamic=True, name="input")
    ask(shell, named, shapes={"": (3, 64)})
    assert {"--input_layer=input", "--input_layer_shape=3,64"} <= set(shell.commands[-1])


@pytest.mark.parametrize(
    ("code", "stdout", "stderr", "kind", "says"),
    [
        (126, "", "/system/bin/sh: ./benchmark_model: not executable: 64-bit ELF file\n",
         UnsupportedError, "another processor"),
        (1, "./b: not executable: 64-bit ELF file", "", UnsupportedError, "processor"),
        (1, "", 'CANNOT LINK EXECUTABLE "./b": library "libX.so" not found', ToolchainError,
         "libX.so"),
        (1, "", 'CANNOT LINK EXECUTABLE: "b" is 32-bit instead of 64-bit', UnsupportedError,
         "processor"),
        (127, "", "sh: not found", ToolchainError, "is not on the device"),
        (126, "", "can't execute: Permission denied", ToolchainError, "folder"),
        (1, "", "ERROR: Encountered unresolved custom op: TFLite_Magic.\nSee instructions:",
         ModelFileError, "'TFLite_Magic'"),
        (137, "INFO: STARTING!\n", "Killed", ModelFileError, "out of memory"),
        (134, "", "terminating due to uncaught exception of type std::bad_alloc", ModelFileError,
         "out of memory"),
        (139, "", "Segmentation fault", ModelFileError, "signal 11"),
        (134, "", "FATAL: bad thing", ModelFileError, "signal 6.*bad thing"),
        (1, "", "ERROR: Signature not specified or incorrect.\nERROR:  #> Signature key: a",
         UnsupportedError, "several signatures"),
        (1, "", "ERROR: Failed to load model x\n", ModelFileError, "complete"),
        (1, "", "ERROR: Node number 3 failed to prepare.\nERROR: Failed to allocate tensors!",
         ModelFileError, "Failed to allocate tensors!"),
        (1, "", "write: No space left on device", OutputError, "full"),
        (1, "", "taskset: failed to set 1's affinity: Invalid argument", UnsupportedError, "CPUs"),
        (0, "Warning: Dropping ProfileBuffer event.", "", UnsupportedError, "no room"),
        (3, "", "ERROR: \x1b[31mwhat\n", ToolchainError, "code 3"),
        (0, "INFO: STARTING!\n", "", ToolchainError, "without giving times"),
    ],
)  # fmt: skip
def test_failures_say_what_to_do(shell, tmp_path, code, stdout, stderr, kind, says):
    path = write_chain(tmp_path / "m.tflite", "AM")
    shell.failing = Completed(code, stdout, stderr)
    with pytest.raises(DeployError, match=says) as caught:
        ask(shell, path)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)
    # A device with one stream gives the same answer.
    shell.failing = Completed(code, stderr + stdout, "")
    with pytest.raises(kind, match=says):
        ask(shell, path)


def test_another_program_is_not_taken_for_the_tool(shell):
    shell.failing = Completed(0, "usage: toybox", "")
    with pytest.raises(ToolchainError, match="is not LiteRT's benchmark_model"):
        read_options(shell, BINARY)
    shell.failing = Completed(126, "", "sh: x: not executable: 32-bit ELF file")
    with pytest.raises(UnsupportedError, match="another processor"):
        read_options(shell, BINARY)


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"cpus": ()}, "at least one"),
        ({"cpus": (0,), "threads": 2}, "at most 1"),
        ({"threads": 0}, "at least 1"),
    ],
)
def test_requests_that_cannot_be_met(shell, tmp_path, wanted, says):
    with pytest.raises(UnsupportedError, match=says):
        ask(shell, write_chain(tmp_path / "m.tflite", "A"), **wanted)
    assert len(shell.commands) == 1  # nothing but --help


def test_a_build_without_xnnpack_is_refused(shell, tmp_path):
    path = write_chain(tmp_path / "m.tflite", "A")
    options = read_options(shell, BINARY) - {"use_xnnpack"}
    with pytest.raises(UnsupportedError, match="without XNNPACK"):
        timed(shell, MeasureRequest(str(path)), binary=BINARY, graph="g", options=options)


def test_xnnpack_that_takes_nothing_is_told():
    text = log([9], [7, 8], prefix="INFO: ", new=True)
    text = (
        "INFO: Though XNNPACK delegate is explicitly applied, the model graph will not be"
        " executed by the delegate.\n" + text
    )
    found = to_timed(MeasureRequest("m.tflite"), [parse_log(text)], [])
    assert any("XNNPACK took no operator" in note for note in found.notes)


def test_invocations_that_ran_other_operators(tmp_path):
    path = write_chain(tmp_path / "m.tflite", "AMS")
    details = summarize(record(path, 2), output_names(path))
    table = parse_proto(proto(details, 2))
    other = replace(
        table, rows=tuple(replace(r, name=r.name.replace("Add", "Sum")) for r in table.rows)
    )
    run_log = parse_log(log([9, 8], [7, 8], prefix="", new=False))
    with pytest.raises(ToolchainError, match="other operators"):
        to_timed(
            MeasureRequest(str(path)), [run_log] * 2,
            [Profiled(run_log, table), Profiled(run_log, other)],
        )  # fmt: skip


def test_every_cut_of_a_profile_is_refused_or_smaller(tmp_path):
    path = write_chain(tmp_path / "m.tflite", "AMS")
    data = proto(summarize(record(path, 2), output_names(path)), 2)
    whole = parse_proto(data)
    assert in_run_order(whole) is not None
    for size in range(len(data)):
        with pytest.raises(ToolchainError):
            parse_proto(data[:size])


def test_the_least_of_several_operators_is_none_of_one():
    rows = (
        OpRow("Add (ND)", "Delegate/Add (ND):0", 40.0, 2, 10.0, 0),
        OpRow("CUMSUM", "[x]:1", 9.0, 1, 7.0, 1),
    )
    run_log = parse_log(log([9, 8], [7, 8], prefix="", new=False))
    found = to_timed(MeasureRequest("m"), [run_log], [Profiled(run_log, OpTable(rows))])
    # XNNPACK's whole microseconds stand for half a one more.
    assert [op.samples_us for op in found.profile.ops] == [(40.5,), (7.0,), (40.5,)]
    assert [op.partition for op in found.profile.ops] == [0, None, 1]
    assert found.rounds_us == found.profiled_rounds_us == ((7.0,),)
