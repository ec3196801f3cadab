from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mnv4_deploy.errors import InputError, ModelFileError, UnsupportedError
from mnv4_deploy.profiles.graph.format import format_of
from mnv4_deploy.profiles.measure.checks import available_cpus, check_request
from mnv4_deploy.profiles.measure.measure import measure, measure_here
from mnv4_deploy.profiles.measure.rounds import take_turns, time_files
from mnv4_deploy.profiles.records.profile import MeasureRequest
from mnv4_deploy.profiles.records.timing import OpTiming
from mnv4_deploy.profiles.runtimes.runners import open_runner

if TYPE_CHECKING:
    from tests.profiles.conftest import TfliteBuilder

_LINUX = sys.platform.startswith("linux")


class _Fake:
    """A runner that writes down who ran when."""

    runtime = "fake"
    notes = ()
    measured = Path("fake")

    def __init__(
        self, name: str, log: list[str], run_s: float = 0.0, *, times_operators: bool = True
    ) -> None:
        self._name, self._log, self._run_s = name, log, run_s
        self.times_operators = times_operators

    def run(self) -> None:
        time.sleep(self._run_s)
        self._log.append(self._name)

    def run_profiled(self, *, record: bool) -> float:
        time.sleep(self._run_s)
        self._log.append(self._name.upper() + "-+"[record])
        return 1.0

    def timings(self, plain_us: Sequence[float] = ()) -> tuple[OpTiming, ...]:  # noqa: ARG002
        return ()

    def close(self) -> None: ...


def test_rounds_take_turns_and_reverse() -> None:
    log: list[str] = []
    runners = [_Fake("a", log), _Fake("b", log)]
    rounds = []
    samples = take_turns(
        runners, runs=5, warmup=1, max_seconds=5, after_round=lambda: rounds.append(len(log))
    )
    a, b = ["a", "a", "a", "A-", "A+", "A+"], ["b", "b", "b", "B-", "B+", "B+"]
    last_a, last_b = ["a", "a", "A-", "A+"], ["b", "b", "B-", "B+"]
    assert log == ["a", "A-", "b", "B-", *a, *b, *b, *a, *last_a, *last_b]
    assert rounds == [4 + 12, 4 + 24, 4 + 32]
    for times in samples:
        assert [len(burst) for burst in times.plain] == [2, 2, 1]
        assert [len(burst) for burst in times.profiled] == [2, 2, 1]


def test_without_profiler() -> None:
    log: list[str] = []
    samples = take_turns([_Fake("a", log)], runs=3, warmup=0, max_seconds=5, profile=False)
    assert log == ["a"] * 7
    assert samples[0].profiled == []


def test_a_runtime_without_profiler_takes_its_turns() -> None:
    log: list[str] = []
    runners = [_Fake("a", log), _Fake("b", log, times_operators=False)]
    a, b = take_turns(runners, runs=3, warmup=1, max_seconds=5)
    first = ["a", "a", "A-", "A+", "b", "b"]
    assert log == ["a", "A-", "b", *first, "b", "b", "a", "a", "A-", "A+", *first]
    assert (len(a.profiled), b.profiled, len(b.plain)) == (3, [], 3)
    log.clear()
    (alone,) = take_turns([runners[1]], runs=3, warmup=2, max_seconds=5)
    assert log == ["b"] * 8
    assert alone.profiled == []


def test_a_slow_model_gets_three_short_rounds() -> None:
    log: list[str] = []
    start = time.monotonic()
    (times,) = take_turns([_Fake("a", log, 0.05)], runs=1000, warmup=50, max_seconds=0.2)
    assert [len(burst) for burst in times.plain] == [1, 1, 1]
    assert time.monotonic() - start < 1.5


def test_a_time_limit_ends_the_rounds() -> None:
    start = time.monotonic()
    (times,) = take_turns([_Fake("a", [], 0.001)], runs=10_000, warmup=2, max_seconds=0.5)
    assert 3 < len(times.plain) == len(times.profiled) < 200
    assert 0.3 < time.monotonic() - start < 2


def test_time_files_mixes_formats(conv_tflite: Path, conv_onnx: Path) -> None:
    lite, onnx, same = time_files([conv_tflite, conv_onnx, conv_tflite], rounds=9, warmup=3)
    assert [len(r) for r in lite.rounds_us] == [5] * 9
    assert 0.5 < same.ratio_to(lite) < 2
    assert onnx.median_us > 0


def _check_measurement(found: Any, runs: int) -> None:
    timings = found.profile.ops
    assert sorted(i for layer in found.layers for i in layer.timing_indices) == list(
        range(len(timings))
    )
    assert all(len(t.samples_us) == runs for t in timings)
    assert sum(map(len, found.rounds_us)) == sum(map(len, found.profiled_rounds_us)) == runs
    assert len(found.conditions.spin_us) == len(found.rounds_us) + 1


def test_two_formats_in_one_measurement(split_tflite: Path, qdq_onnx: Path) -> None:
    requests = [MeasureRequest(str(path), warmup=2, runs=9) for path in (split_tflite, qdq_onnx)]
    lite, onnx = measure(requests)
    for found in (lite, onnx):
        _check_measurement(found, 9)
    assert [len(r) for r in lite.rounds_us] == [3, 3, 3] == [len(r) for r in onnx.rounds_us]
    assert (lite.format, onnx.format) == ("tflite", "onnx")
    assert lite.size_bytes == split_tflite.stat().st_size
    # CUMSUM is operator 1 and has no kernel in XNNPACK.
    assert list(lite.refusals) == [1]
    assert "CUMSUM" in lite.refusals[1]
    assert onnx.refusals == {}


def test_layers_add_up(conv_tflite: Path) -> None:
    """Without noise from outside: the quietest runs of both."""
    (found,) = measure([MeasureRequest(str(conv_tflite), runs=60)])
    operators = [t for t in found.profile.ops if t.backend == "xnnpack"]
    fastest_us = min(us for burst in found.rounds_us for us in burst)
    assert 0.6 < sum(min(t.samples_us) for t in operators) / fastest_us < 1.2


@pytest.mark.skipif(not _LINUX, reason="CPU affinity")
def test_pins_the_child_and_not_us(conv_tflite: Path) -> None:
    before = os.sched_getaffinity(0)
    last = available_cpus()[-1]
    (found,) = measure([MeasureRequest(str(conv_tflite), runs=3, cpus=(last,))])
    assert found.cpus == (last,)
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threads": 0}, "0 threads are too few"),
        (
            {"threads": 10_000},
            r"10000 threads are more than the \d+ CPUs? to run on: give at most",
        ),
        ({"cpus": (0, 99_999)}, "CPU 99999 is not available"),
        ({"cpus": ()}, "name at least one"),
        ({"threads": 2, "cpus": (available_cpus()[0],)}, "more than the 1 CPU to run on"),
        ({"runs": 0}, "0 runs are out of range: give 1 to 10000"),
        ({"runs": 10_001}, "out of range"),
        ({"warmup": -1}, "-1 warm-up runs"),
        ({"max_seconds": 0.0}, "time limit of 0 s"),
        ({"max_seconds": float("nan")}, "time limit of nan s"),
        ({"max_seconds": float("inf")}, "time limit of inf s"),
    ],
)
def test_requests_out_of_range(change: dict[str, Any], message: str) -> None:
    request = replace(MeasureRequest("m.tflite"), **change)
    with pytest.raises(UnsupportedError, match=message):
        check_request(request)
    with pytest.raises(UnsupportedError, match=message):
        measure_here([request])


def _bad_files(folder: Path, conv_tflite: Path, conv_onnx: Path) -> Iterator[tuple[Path, str]]:
    yield folder / "missing.onnx", "does not exist"
    yield folder, "is not a file"
    for name, content, message in (
        ("empty.tflite", b"", "is empty"),
        ("text.onnx", b"hello, I am no model\n" * 20, "model"),
        ("cut.tflite", conv_tflite.read_bytes()[:3000], "damaged|truncated|cannot load|complete"),
        ("cut.onnx", conv_onnx.read_bytes()[:3000], "model"),
    ):
        path = folder / name
        path.write_bytes(content)
        yield path, message


def test_bad_files_are_one_sentence(tmp_path: Path, conv_tflite: Path, conv_onnx: Path) -> None:
    for path, message in _bad_files(tmp_path, conv_tflite, conv_onnx):
        with pytest.raises(ModelFileError, match=message) as caught:
            measure([MeasureRequest(str(path), runs=1)])
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 2


def test_format_is_by_content(conv_tflite: Path, tmp_path: Path) -> None:
    disguised = tmp_path / "model.onnx"
    disguised.write_bytes(conv_tflite.read_bytes())
    assert format_of(disguised) == "tflite"
    with closing(open_runner(disguised)) as runner:
        assert runner.runtime.startswith("ai-edge-litert")


def test_dynamic_shape_through_the_child(conv_onnx: Path) -> None:
    with pytest.raises(InputError, match="does not fit"):
        measure([MeasureRequest(str(conv_onnx), runs=1, shapes={"": (1, 3, 64, 64)})])
    (found,) = measure([MeasureRequest(str(conv_onnx), runs=1, shapes={"image": (4, 3, 32, 32)})])
    assert found.graph.tensors[found.graph.inputs[0]].shape == (4, 3, 32, 32)


def test_too_large_for_memory_tflite(tflite: TfliteBuilder, tmp_path: Path) -> None:
    """1.3 GB in and out under a limit of 1 GiB."""
    shape = (1, 1600, 2000, 100)
    x, y = tflite.tensor("x", shape), tflite.tensor("y", shape)
    tflite.op("ADD", (x, x), (y,), "AddOptions")
    path = tflite.write(tmp_path / "big.tflite", (x,), (y,))
    with pytest.raises(ModelFileError, match=r"big\.tflite needs more memory than there is"):
        measure([MeasureRequest(str(path), runs=1)], memory_bytes=1 << 30)


def test_too_large_for_memory_onnx(tmp_path: Path) -> None:
    """64 x 64 x 4 numbers enlarged 200 times in both directions: 2.6 GB under 2 GiB."""
    onnx = pytest.importorskip("onnx")
    scales = onnx.numpy_helper.from_array(np.array([1, 1, 200, 200], np.float32), "scales")
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="nearest")],
        "net",
        [value("x", onnx.TensorProto.FLOAT, [1, 4, 64, 64])],
        [value("y", onnx.TensorProto.FLOAT, None)],
        [scales],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 9
    path = tmp_path / "big.onnx"
    onnx.save(model, str(path))
    with pytest.raises(ModelFileError, match=r"big\.onnx needs more memory than there is"):
        measure([MeasureRequest(str(path), runs=1)], memory_bytes=2 << 30)


def test_too_long_is_cut_off(conv_tflite: Path) -> None:
    with pytest.raises(ModelFileError, match=r"was not read and run within 0\.1 s"):
        measure([MeasureRequest(str(conv_tflite))], timeout_s=0.1)


def test_importing_it_loads_nothing_heavy() -> None:
    code = (
        "import sys;"
        "import mnv4_deploy.profiles.measure.measure, mnv4_deploy.profiles.measure.checks;"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'ai_edge_litert', 'matplotlib', 'plotly',"
        " 'llvmlite', 'mnv4_deploy.models', 'mnv4_deploy.exporters'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def _children_of(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(child) for child in listed.split()]


def _is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"


@pytest.mark.skipif(not _LINUX, reason="/proc")
@pytest.mark.parametrize(
    ("number", "whole_group"),
    [(signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGKILL, False)],
    ids=["ctrl-c", "only-us", "killed"],
)
def test_child_dies_with_its_parent(
    conv_tflite: Path, tmp_path: Path, number: int, whole_group: bool
) -> None:
    code = (
        "from mnv4_deploy.profiles.records.profile import MeasureRequest as R;"
        "from mnv4_deploy.profiles.measure.measure import measure;"
        f"measure([R({str(conv_tflite)!r}, runs=10000, max_seconds=600.0)])"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        start_new_session=True,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    try:
        deadline = time.monotonic() + 30
        while not (children := _children_of(parent.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1.0)  # well into its runs
        (child,) = children
        assert not _is_gone(child)
        (os.killpg if whole_group else os.kill)(parent.pid, number)
        parent.wait(timeout=10)
        deadline = time.monotonic() + 5
        while not _is_gone(child) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert _is_gone(child)
        if number == signal.SIGINT:
            assert list(tmp_path.iterdir()) == []
    finally:
        parent.kill()
        parent.wait()
