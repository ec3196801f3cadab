"""End-to-end times on whatever runtime a device has, with nothing else installed there."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mnv4_deploy.errors import (
    MissingLibraryError,
    ModelFileError,
    ToolchainError,
    UnsupportedError,
)
from mnv4_deploy.profiles.measure.measure import time_here
from mnv4_deploy.profiles.records.inputs import RunSettings
from mnv4_deploy.profiles.records.profile import MeasureRequest
from mnv4_deploy.profiles.runtimes.litert import library as litert_library
from mnv4_deploy.profiles.runtimes.litert.interpreter import installed_runtime
from mnv4_deploy.profiles.runtimes.litert.run_interpreter import InterpreterRunner
from mnv4_deploy.profiles.runtimes.litert.run_xnnpack import XnnpackRunner
from mnv4_deploy.profiles.runtimes.runners import open_device_runner, open_runner
from mnv4_deploy.profiles.runtimes.timing import time_run_us

if TYPE_CHECKING:
    from tests.profiles.conftest import TfliteBuilder

# A Python that has tflite-runtime and NumPy 1 and nothing else, where somebody made one:
# python3 -m venv DIR && DIR/bin/pip install tflite-runtime==2.14.0 'numpy<2'
_TFLITE_PYTHON = os.environ.get("MNV4_DEPLOY_TFLITE_RUNTIME_PYTHON", "")
# Runs time_here where nothing can be imported that a device need not have.
_BARE = """
import json, sys
from importlib.abc import MetaPathFinder

class Refuse(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "onnx", "llvmlite", "rich", "matplotlib", "PIL"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
from mnv4_deploy.profiles.records.plain import to_plain
from mnv4_deploy.profiles.records.profile import MeasureRequest
from mnv4_deploy.profiles.measure.measure import time_here
found = time_here([MeasureRequest(path, runs=4) for path in sys.argv[1:]])
print(json.dumps(to_plain(found)))
"""


def _untried(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the installed ai-edge-litert were a version that nobody tried."""
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "9.9.9")


def test_runs_the_file_and_says_what_it_cannot_do(conv_tflite: Path) -> None:
    with closing(InterpreterRunner(conv_tflite, RunSettings(threads=2))) as runner:
        assert runner.runtime == f"ai-edge-litert {importlib.metadata.version('ai-edge-litert')}"
        assert not runner.times_operators
        assert runner.timings((1.0,)) == ()
        (note,) = runner.notes
        assert "gives no times of operators" in note
        assert "--setup" in note
        assert litert_library.TRIED_VERSIONS[-1] in note
        runner.run()
    runner.close()  # a second time does nothing


def test_it_does_the_work_of_the_model(tflite: TfliteBuilder, tmp_path: Path) -> None:
    """A batch of 64 takes longer than one of 1, so the resized model is what runs."""
    x, y = (tflite.tensor(name, (1, 40, 40, 32)) for name in "xy")
    for index in (x, y):
        tflite.graph.tensors[index].shapeSignature = [-1, 40, 40, 32]
    tflite.op("TANH", (x,), (y,))
    path = tflite.write(tmp_path / "net.tflite", (x,), (y,))
    least = []
    for batch in (1, 64):
        with closing(
            InterpreterRunner(path, RunSettings(shapes={"x": (batch, 40, 40, 32)}))
        ) as runner:
            least.append(min(time_run_us(runner.run) for _ in range(5)))
    assert least[1] > 8 * least[0]


def test_shapes_that_do_not_fit(conv_tflite: Path) -> None:
    with pytest.raises(UnsupportedError, match="dimension 1 is fixed at 32"):
        InterpreterRunner(conv_tflite, RunSettings(shapes={"image": (1, 64, 64, 3)}))
    with pytest.raises(UnsupportedError, match="no input nothing"):
        InterpreterRunner(conv_tflite, RunSettings(shapes={"nothing": (1,)}))


def test_text_cannot_be_made_up(tflite: TfliteBuilder, tmp_path: Path) -> None:
    x, y = (tflite.tensor(name, (1,), "string") for name in "xy")
    tflite.op("RESHAPE", (x,), (y,))
    path = tflite.write(tmp_path / "net.tflite", (x,), (y,))
    with pytest.raises((UnsupportedError, ModelFileError), match="holds text"):
        InterpreterRunner(path)


def test_damaged_files_are_one_sentence(conv_tflite: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.tflite"
    cut.write_bytes(conv_tflite.read_bytes()[:3000])
    with pytest.raises(ModelFileError, match="cannot run") as caught:
        InterpreterRunner(cut)
    assert str(cut) in str(caught.value)
    assert "\n" not in str(caught.value)


def _only(*packages: str) -> Callable[..., object | None]:
    return lambda name, *_: object() if name in packages else None


@pytest.mark.parametrize(
    ("packages", "name"),
    [
        (("ai_edge_litert", "tflite_runtime"), "ai-edge-litert 9.9.9"),
        (("tflite_runtime",), "tflite-runtime 9.9.9"),
    ],
)
def test_the_best_of_what_is_there(
    packages: tuple[str, ...], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _untried(monkeypatch)
    monkeypatch.setattr(importlib.util, "find_spec", _only(*packages))
    found = installed_runtime()
    assert found.name == name
    assert not found.times_operators


def test_nothing_there_says_what_to_do(
    conv_tflite: Path, conv_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", _only())
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for path, runtime in ((conv_tflite, "tflite-runtime"), (conv_onnx, "onnxruntime")):
        with pytest.raises(MissingLibraryError, match=rf"{runtime}.* installed.*give --setup"):
            open_device_runner(path)


def test_a_device_takes_an_untried_version_and_this_machine_does_not(
    conv_tflite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(open_device_runner(conv_tflite)) as runner:
        assert isinstance(runner, XnnpackRunner)
    _untried(monkeypatch)
    with closing(open_device_runner(conv_tflite)) as runner:
        assert isinstance(runner, InterpreterRunner)
        assert runner.runtime == "ai-edge-litert 9.9.9"
    with pytest.raises(ToolchainError, match=r"9\.9\.9 was never tried here"):
        open_runner(conv_tflite)


def test_times_without_a_profiler_beside_some_with(
    conv_tflite: Path, conv_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _untried(monkeypatch)
    requests = [MeasureRequest(str(path), runs=6) for path in (conv_tflite, conv_onnx)]
    lite, onnx = time_here(requests)
    assert (lite.profile.ops, lite.profiled_rounds_us) == ((), ())
    assert [len(burst) for burst in lite.rounds_us] == [len(burst) for burst in onnx.rounds_us]
    assert sum(map(len, lite.rounds_us)) == 6
    assert min(map(min, lite.rounds_us)) > 0
    assert "no times of operators" in lite.notes[0]
    assert all(len(op.samples_us) == 6 for op in onnx.profile.ops)


def _time_bare(python: str, *paths: Path, **environment: str) -> Any:
    done = subprocess.run(
        [python, "-c", _BARE, *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_needs_numpy_and_a_runtime_alone(conv_tflite: Path, conv_onnx: Path) -> None:
    lite, onnx = _time_bare(sys.executable, conv_tflite, conv_onnx)
    assert {op["backend"] for op in lite["profile"]["ops"]} >= {"xnnpack"}
    assert {op["tag"] for op in onnx["profile"]["ops"]} >= {"Conv", "Erf"}


@pytest.mark.skipif(not _TFLITE_PYTHON, reason="MNV4_DEPLOY_TFLITE_RUNTIME_PYTHON is not set")
def test_on_tflite_runtime_and_numpy_1(conv_tflite: Path, tmp_path: Path) -> None:
    from mnv4_deploy.device.linux.archive import build_archive

    archive = tmp_path / "agent.zip"
    archive.write_bytes(build_archive())
    (found,) = _time_bare(_TFLITE_PYTHON, conv_tflite, PYTHONPATH=str(archive))
    assert found["profile"]["runtime"].startswith("tflite-runtime 2.")
    assert found["profile"]["ops"] == []
    assert len(found["profile"]["wall_us"]) == 4
