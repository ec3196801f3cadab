from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from mnv4_deploy.errors import ModelFileError, ToolchainError, UnsupportedError
from mnv4_deploy.profiles import litert_library
from mnv4_deploy.profiles.litert_capi import EVENT_BUILTIN_OP, CompiledModel, ProfilerEvent
from mnv4_deploy.profiles.run_xnnpack import partition_numbers, profile_ops, time_files

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
    profile = profile_ops(split_tflite, runs=20, warmup=3)
    assert profile.partitions == 2
    (fallback,) = profile.outside_delegate
    assert (fallback.tag, fallback.op_index) == ("CUMSUM", 1)
    convolutions = [op for op in profile.ops if op.tag.startswith("Convolution")]
    assert [op.partition for op in convolutions] == [0, 1]
    assert all(len(op.samples_us) == 20 for op in profile.ops)
    assert len(profile.wall_us) == len(profile.profiled_wall_us) == 20


def test_operators_add_up_to_the_wall_time(conv_tflite: Path) -> None:
    profile = profile_ops(conv_tflite, runs=40)
    assert profile.partitions == 1
    assert profile.outside_delegate == ()
    # The profiler costs a fixed time per run outside the operators, so the plain run compares.
    assert 0.4 * profile.median_us < profile.operators_us < 1.5 * profile.median_us
    assert profile.operators_us <= float(np.median(profile.profiled_wall_us))
    assert profile.by_tag_us == dict(sorted(profile.by_tag_us.items(), key=lambda i: -i[1]))


def test_without_the_delegate_everything_is_builtin(conv_tflite: Path) -> None:
    profile = profile_ops(conv_tflite, runs=3, kernel_mode="builtin")
    assert profile.partitions == 0
    assert [op.tag for op in profile.outside_delegate] == ["CONV_2D", "CONV_2D", "MEAN"]


def test_partition_border_is_a_restart_or_a_fallback() -> None:
    def xnnpack(index: int) -> ProfilerEvent:
        return ProfilerEvent("Add (ND)", 8, 1, index, 0)

    builtin = ProfilerEvent("SOFTMAX", EVENT_BUILTIN_OP, 1, 5, 0)
    events = [xnnpack(0), xnnpack(2), xnnpack(0), builtin, xnnpack(1), xnnpack(1)]
    assert partition_numbers(events) == [0, 0, 1, None, 2, 3]


def test_round_robin_keeps_every_sample(conv_tflite: Path, split_tflite: Path) -> None:
    plain, split, same = time_files(
        [conv_tflite, split_tflite, conv_tflite], rounds=9, burst=4, warmup=3
    )
    assert [len(r) for r in plain.rounds_us] == [4] * 9
    assert 0.5 < same.ratio_to(plain) < 2
    assert split.ratio_to(plain) > 0


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
