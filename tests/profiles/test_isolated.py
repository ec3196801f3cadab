from __future__ import annotations

import ctypes
import json
import math
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mnv4_deploy.errors import ModelFileError, ToolchainError, WeightsError
from mnv4_deploy.profiles.isolated import (
    Outcome,
    function_named,
    name_of,
    outcome_of,
    run_isolated,
    run_isolated_with_log,
)
from mnv4_deploy.profiles.runtimes.litert.capi import CompiledModel

pytestmark = pytest.mark.usefixtures("fresh_child")


def test_returns_the_value() -> None:
    assert run_isolated(math.hypot, 3.0, 4.0) == 5.0


@pytest.mark.parametrize(
    ("function", "arguments", "signal_name"),
    [(os.abort, (), "SIGABRT"), (ctypes.string_at, (0,), "SIGSEGV")],
)
def test_native_crash_names_file_and_signal(
    function: Callable[..., object], arguments: tuple[int, ...], signal_name: str
) -> None:
    with pytest.raises(ModelFileError, match=f"bad.tflite made .* crash .{signal_name}"):
        run_isolated(function, *arguments, subject="bad.tflite")


def test_crash_without_a_file_is_the_toolchain() -> None:
    with pytest.raises(ToolchainError, match="SIGABRT"):
        run_isolated(os.abort)


def test_hang_is_cut_off() -> None:
    start = time.monotonic()
    with pytest.raises(ModelFileError, match=r"slow.onnx was not read and run within 0.5 s"):
        run_isolated(time.sleep, 60, timeout_s=0.5, subject="slow.onnx")
    assert time.monotonic() - start < 10


def test_deploy_error_keeps_its_class_and_message(tmp_path: Path) -> None:
    missing = tmp_path / "missing.tflite"
    with pytest.raises(ModelFileError) as caught:
        run_isolated(CompiledModel, missing)
    assert str(missing) in str(caught.value)
    assert type(caught.value) is ModelFileError


def test_what_a_file_makes_a_library_raise_is_the_files_fault() -> None:
    for function in (int, json.loads):
        with pytest.raises(ModelFileError, match=r"^x\.onnx holds .*Error: .*:.*\.$") as refused:
            run_isolated(function, "no number", subject="x.onnx")
        assert "Traceback" in str(refused.value.__cause__)
        with pytest.raises(RuntimeError, match="Traceback"):
            run_isolated(function, "no number")


def test_bug_in_the_child_is_not_hidden() -> None:
    with pytest.raises(RuntimeError, match="FileNotFoundError"):
        run_isolated(os.listdir, "/no/such/folder", subject="x.tflite")


def _fail(error: BaseException) -> None:
    raise error


def test_what_comes_of_a_call() -> None:
    assert outcome_of(math.hypot, 3.0, 4.0) == Outcome(value=5.0)
    assert outcome_of(_fail, MemoryError()) == Outcome(out_of_memory=True)
    no_memory = ToolchainError("LiteRT failed: it said 'memory allocation failure'.")
    assert outcome_of(_fail, no_memory) == Outcome(out_of_memory=True)
    bug = outcome_of(_fail, KeyError("a bug")).bug
    assert bug is not None
    assert bug.splitlines()[-1] == "KeyError: 'a bug'"


def test_an_error_travels_without_its_cause() -> None:
    error = WeightsError("the weights are wrong.")
    error.__cause__ = OSError("a cause that need not pickle")
    found = pickle.loads(pickle.dumps(outcome_of(_fail, error))).error
    assert (type(found), found.args) == (WeightsError, ("the weights are wrong.",))
    assert found.__cause__ is None


def test_what_ends_a_process_ends_it() -> None:
    with pytest.raises(SystemExit):
        outcome_of(sys.exit, 3)


def test_the_result_of_an_outcome() -> None:
    too_large = ToolchainError("there is too little memory.")
    assert Outcome(value=None).result("it", too_large) is None
    for outcome, error, words in (
        (Outcome(error=WeightsError("wrong.")), WeightsError, r"^wrong\.$"),
        (Outcome(out_of_memory=True), ToolchainError, "too little memory"),
        (Outcome(bug="KeyError: 1"), RuntimeError, "it failed in a child process:\nKeyError: 1"),
    ):
        with pytest.raises(error, match=words):
            outcome.result("it", too_large)


@pytest.mark.parametrize("function", [math.hypot, Outcome, os.path.join])
def test_functions_are_found_again_by_their_names(function: Callable[..., object]) -> None:
    assert function_named(name_of(function)) is function


def test_lack_of_memory_names_the_file() -> None:
    with pytest.raises(ModelFileError, match=r"large\.onnx needs more memory than there is"):
        run_isolated(bytearray, 1 << 45, subject="large.onnx")
    with pytest.raises(ToolchainError, match="needs more memory than there is"):
        run_isolated(bytearray, 1 << 45)


def test_output_of_the_child_is_captured(capfd: pytest.CaptureFixture[str]) -> None:
    result = run_isolated_with_log(os.write, 2, b"native noise")
    assert result.value == 12
    assert "native noise" in result.log
    assert "native noise" not in capfd.readouterr().err


def test_child_does_not_import_the_callers_main(tmp_path: Path) -> None:
    """A console script's module has no guard: running it again would start the tool twice."""
    script = tmp_path / "tool"
    script.write_text(
        "import math\nfrom mnv4_deploy.profiles.isolated import run_isolated\n"
        "print('started')\nprint(run_isolated(math.sqrt, 49.0))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["started", "7.0"]


def test_child_imports_no_heavy_package(conv_tflite: Path, conv_onnx: Path) -> None:
    for module, path in (("inspect_tflite", conv_tflite), ("inspect_onnx", conv_onnx)):
        code = (
            f"import sys; from mnv4_deploy.profiles.inspection.{module} import inspect_here;"
            f"inspect_here({str(path)!r});"
            "bad={'torch','litert_torch','tensorflow','mnv4_deploy.models'} & set(sys.modules);"
            "sys.exit(str(bad) if bad else 0)"
        )
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
