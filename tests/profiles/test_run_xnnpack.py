from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from mnv4_deploy.errors import InputError, ModelFileError, ToolchainError, UnsupportedError
from mnv4_deploy.profiles.measure.measure import time_here
from mnv4_deploy.profiles.records.inputs import RunSettings
from mnv4_deploy.profiles.records.profile import MeasureRequest
from mnv4_deploy.profiles.runtimes.litert import library as litert_library
from mnv4_deploy.profiles.runtimes.litert.capi import (
    EVENT_BUILTIN_OP,
    EVENT_XNNPACK_OP,
    CompiledModel,
    ProfilerEvent,
)
from mnv4_deploy.profiles.runtimes.litert.run_xnnpack import XnnpackRunner, feed
from mnv4_deploy.profiles.runtimes.litert.xnnpack_events import (
    merge,
    operator_events,
    partition_numbers,
)
from mnv4_deploy.profiles.runtimes.timing import example_input, time_run_us

if TYPE_CHECKING:
    from tests.profiles.conftest import TfliteBuilder


def test_outputs_equal_the_interpreters(conv_tflite: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    image = np.random.default_rng(3).standard_normal((1, 32, 32, 3)).astype(np.float32)
    interpreter = Interpreter(model_path=str(conv_tflite))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    expected = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    with CompiledModel(conv_tflite) as model:
        model.set_input(0, image)
        model.run()
        np.testing.assert_allclose(model.read_output(0), expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8", "int16", "int32", "int64", "bool"])
def test_every_dtype_travels_unchanged(tflite: TfliteBuilder, tmp_path: Path, dtype: str) -> None:
    shape = tflite.tensor("shape", (1,), "int32", data=np.array([24], np.int32))
    inputs, outputs = [], []
    for name in "ab":
        quantized = dtype in ("int8", "uint8", "int16")
        scale = 0.5 if quantized else None
        x = tflite.tensor(f"{name}_in", (2, 3, 4), dtype, scale=scale)
        y = tflite.tensor(f"{name}_out", (24,), dtype, scale=scale)
        tflite.op("RESHAPE", (x, shape), (y,), "ReshapeOptions", newShape=[24])
        inputs.append(x)
        outputs.append(y)
    path = tflite.write(tmp_path / "m.tflite", inputs, outputs)
    rng = np.random.default_rng(0)
    values = [rng.integers(0, 100, (2, 3, 4)).astype(dtype) for _ in inputs]
    with CompiledModel(path) as model:
        assert [spec.dtype for spec in model.inputs] == [dtype, dtype]
        for index, value in enumerate(values):
            model.set_input(index, value)
        model.run()
        for index, value in enumerate(values):
            np.testing.assert_array_equal(model.read_output(index), value.reshape(24))


def test_wrong_input_is_refused(conv_tflite: Path) -> None:
    with CompiledModel(conv_tflite) as model:
        with pytest.raises(ValueError, match=r"float32\[1, 32, 32, 3\]"):
            model.set_input(0, np.zeros((1, 3, 32, 32), np.float32))
        with pytest.raises(ValueError, match="not float64"):
            model.set_input(0, np.zeros((1, 32, 32, 3)))
        model.close()
        model.close()


def test_profile_counts_partitions_and_fallbacks(split_tflite: Path) -> None:
    (timed,) = time_here([MeasureRequest(str(split_tflite), runs=20, warmup=3)])
    profile = timed.profile
    assert profile.partitions == 2
    (fallback,) = (op for op in profile.ops if op.backend == "builtin")
    assert (fallback.tag, fallback.op_index) == ("CUMSUM", 1)
    convolutions = [op for op in profile.ops if op.tag.startswith("Convolution")]
    assert [op.partition for op in convolutions] == [0, 1]
    assert all(len(op.samples_us) == 20 for op in profile.ops)
    assert sum(map(len, timed.rounds_us)) == sum(map(len, timed.profiled_rounds_us)) == 20


def test_operators_add_up_to_the_wall_time(conv_tflite: Path) -> None:
    (timed,) = time_here([MeasureRequest(str(conv_tflite), runs=40)])
    profile = timed.profile
    wall_us, profiled_us = map(np.concatenate, (timed.rounds_us, timed.profiled_rounds_us))
    assert profile.partitions == 1
    assert all(op.backend != "builtin" for op in profile.ops)
    # The profiler costs a fixed time per run outside the operators, so the plain run compares.
    assert 0.4 < profile.operators_us / np.median(wall_us) < 1.5
    assert profile.operators_us <= np.median(profiled_us)
    assert profile.by_tag_us == dict(sorted(profile.by_tag_us.items(), key=lambda i: -i[1]))


def test_without_the_delegate_everything_is_builtin(conv_tflite: Path) -> None:
    with CompiledModel(conv_tflite, kernel_mode="builtin", profiling=True) as model:
        feed(model)
        model.start_profiler()
        model.run()
        timings = merge([operator_events(model.stop_profiler())], conv_tflite)
    builtin = [t for t in timings if t.backend != "runtime"]
    assert [(t.tag, t.op_index, t.partition) for t in builtin] == [
        ("CONV_2D", 0, None),
        ("CONV_2D", 1, None),
        ("MEAN", 2, None),
    ]


def test_partition_border_is_a_restart_or_a_fallback() -> None:
    def xnnpack(index: int) -> ProfilerEvent:
        return ProfilerEvent("Add (ND)", 8, 1, index, 0)

    builtin = ProfilerEvent("SOFTMAX", EVENT_BUILTIN_OP, 1, 5, 0)
    events = [xnnpack(0), xnnpack(2), xnnpack(0), builtin, xnnpack(1), xnnpack(1)]
    assert partition_numbers(events) == [0, 0, 1, None, 2, 3]


def test_truncated_microseconds_read_as_their_middle() -> None:
    """XNNPACK's 3 us stand for 3 to 4; LiteRT's own events are no such truncation."""

    def run(elapsed_us: int) -> tuple[ProfilerEvent, ...]:
        return (
            ProfilerEvent("Add (ND)", 8, elapsed_us, 0, 0),
            ProfilerEvent("CUMSUM", EVENT_BUILTIN_OP, elapsed_us, 4, 0),
        )

    added, summed = merge([run(3), run(0)], "m.tflite")
    assert (added.samples_us, summed.samples_us) == ((3.5, 0.5), (3.0, 0.0))


def test_xnnpack_truncates(tflite: TfliteBuilder, tmp_path: Path) -> None:
    """The fact behind it: operators of a fraction of a microsecond each cost nothing at all in
    the runtime's own times, however many of them there are."""
    count = 300
    current = first = tflite.tensor("x0", (1, 16))
    half = tflite.tensor("half", (1,), data=np.array([0.5], np.float32))
    for i in range(count):
        after = tflite.tensor(f"x{i + 1}", (1, 16))
        tflite.op("MUL", (current, half), (after,), "MulOptions")
        current = after
    path = tflite.write(tmp_path / "m.tflite", (first,), (current,))
    with CompiledModel(path, profiling=True) as model:
        feed(model)
        elapsed_us, wall_us = [], []
        for _ in range(20):
            model.start_profiler()
            wall_us.append(time_run_us(model.run))
            events = [e for e in model.stop_profiler() if e.type == EVENT_XNNPACK_OP]
            assert len(events) == count
            elapsed_us.append(sum(e.elapsed_us for e in events))
    assert min(elapsed_us) < 0.05 * count < min(wall_us)


def test_other_operators_from_run_to_run_are_refused() -> None:
    first = (ProfilerEvent("Add (ND)", 8, 1, 0, 0),)
    other = (ProfilerEvent("Multiply (ND)", 8, 1, 0, 0),)
    with pytest.raises(ToolchainError, match=r"m\.tflite runs other operators"):
        merge([first, other], "m.tflite")
    assert merge([], "m.tflite") == ()


def test_only_recorded_runs_count(conv_tflite: Path) -> None:
    with closing(XnnpackRunner(conv_tflite)) as runner:
        walls = [runner.run_profiled(record=i in (1, 4)) for i in range(6)]
        timings = runner.timings()
    assert all(len(t.samples_us) == 2 for t in timings)
    for sample, run in enumerate((1, 4)):
        assert sum(t.samples_us[sample] for t in timings) <= walls[run]


def test_files_can_be_opened_again_after_a_profiled_run(conv_tflite: Path) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with closing(XnnpackRunner(conv_tflite)) as runner:
        runner.run_profiled(record=True)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == limits
    assert conv_tflite.read_bytes()


def _dynamic_add(b: TfliteBuilder, path: Path, signature: tuple[int, ...]) -> Path:
    x, y = b.tensor("x", (1, 1, 1, 3)), b.tensor("y", (1, 1, 1, 3))
    for tensor in (x, y):
        b.graph.tensors[tensor].shapeSignature = list(signature)
    b.op("ADD", (x, x), (y,), "AddOptions")
    return b.write(path, (x,), (y,))


@pytest.mark.parametrize("name", ["", "x"])
def test_dynamic_input_takes_the_given_shape(
    tflite: TfliteBuilder, tmp_path: Path, name: str
) -> None:
    path = _dynamic_add(tflite, tmp_path / "m.tflite", (-1, -1, -1, 3))
    with closing(XnnpackRunner(path, RunSettings(shapes={name: (2, 5, 7, 3)}))) as runner:
        runner.run()
        assert runner._plain.inputs[0].shape == (2, 5, 7, 3)
        doubled = runner._plain.read_output(0)
        expected = 2 * example_input((2, 5, 7, 3), "float32")
        np.testing.assert_allclose(doubled, expected, rtol=1e-6)
        runner.run_profiled(record=True)
        assert "Add (ND)" in [t.tag for t in runner.timings()]


def test_shapes_that_cannot_be(tflite: TfliteBuilder, tmp_path: Path) -> None:
    path = _dynamic_add(tflite, tmp_path / "m.tflite", (-1, -1, -1, 3))
    with pytest.raises(InputError, match=r"dynamic shape.*--shape x="):
        XnnpackRunner(path)
    with pytest.raises(UnsupportedError, match="dimension 3 is fixed at 3"):
        XnnpackRunner(path, RunSettings(shapes={"x": (1, 5, 5, 4)}))
    with pytest.raises(UnsupportedError, match="no input z"):
        XnnpackRunner(path, RunSettings(shapes={"z": (1, 5, 5, 3)}))


def test_dynamic_batch_is_one(tflite: TfliteBuilder, tmp_path: Path) -> None:
    path = _dynamic_add(tflite, tmp_path / "m.tflite", (-1, 1, 1, 3))
    with closing(XnnpackRunner(path)) as runner:
        assert runner._plain.inputs[0].shape == (1, 1, 1, 3)


def test_operator_that_fails_when_it_runs(tflite: TfliteBuilder, tmp_path: Path) -> None:
    """Row 9 of a table with 4 rows."""
    table = tflite.tensor("table", (4, 2), data=np.ones((4, 2), np.float32))
    x, nine = tflite.tensor("x", (1,), "int32"), np.array([9], np.int32)
    row = tflite.tensor("row", (1,), "int32")
    offset, y = tflite.tensor("nine", (1,), "int32", data=nine), tflite.tensor("y", (1, 2))
    tflite.op("ADD", (x, offset), (row,), "AddOptions")
    tflite.op("GATHER", (table, row), (y,), "GatherOptions", axis=0)
    path = tflite.write(tmp_path / "m.tflite", (x,), (y,))
    with pytest.raises(ModelFileError, match=r"cannot run .*m\.tflite"):
        XnnpackRunner(path)


def test_integer_input_is_a_valid_index(tflite: TfliteBuilder, tmp_path: Path) -> None:
    table = tflite.tensor("table", (4, 2), data=np.ones((4, 2), np.float32))
    x, y = tflite.tensor("x", (3,), "int32"), tflite.tensor("y", (3, 2))
    tflite.op("GATHER", (table, x), (y,), "GatherOptions", axis=0)
    path = tflite.write(tmp_path / "m.tflite", (x,), (y,))
    with closing(XnnpackRunner(path)) as runner:
        runner.run()
        np.testing.assert_array_equal(runner._plain.read_output(0), np.ones((3, 2)))


def test_custom_operator_is_named(tflite: TfliteBuilder, tmp_path: Path) -> None:
    x, y = tflite.tensor("x", (1, 4)), tflite.tensor("y", (1, 4))
    tflite.op("CUSTOM", (x,), (y,), custom="WarpDrive")
    path = tflite.write(tmp_path / "m.tflite", (x,), (y,))
    with pytest.raises(ModelFileError, match="WarpDrive"):
        XnnpackRunner(path)


def test_untried_version_is_refused(conv_tflite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    litert_library.load_library.cache_clear()
    monkeypatch.setattr("importlib.metadata.version", lambda _name: "9.9.9")
    with pytest.raises(ToolchainError, match=r"9\.9\.9 was never tried .* ai-edge-litert==2\.3"):
        CompiledModel(conv_tflite)


def test_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "bad.tflite"
    path.write_bytes(b"\x1c\0\0\0TFL3" + b"\0" * 8)
    with pytest.raises(ModelFileError, match="cannot load"):
        CompiledModel(path)


def test_runtime_is_quiet(conv_tflite: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with CompiledModel(conv_tflite) as model:
        model.run()
    assert capfd.readouterr().err == ""


def test_string_input_is_unsupported(tflite: TfliteBuilder, tmp_path: Path) -> None:
    x = tflite.tensor("x", (1,), "string")
    y = tflite.tensor("y", (1, 1), "string")
    shape = tflite.tensor("shape", (2,), "int32", data=np.array([1, 1], np.int32))
    tflite.op("RESHAPE", (x, shape), (y,), "ReshapeOptions", newShape=[1, 1])
    path = tflite.write(tmp_path / "m.tflite", (x,), (y,))
    with pytest.raises(UnsupportedError, match="numeric inputs"):
        CompiledModel(path)
