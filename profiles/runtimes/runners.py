"""What the rounds need of a runtime, and the runner of a file's format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.profiles.graph.format import format_of
from mnv4_deploy.profiles.records.inputs import ONE_THREAD, RunSettings
from mnv4_deploy.profiles.records.timing import OpTiming


class Runner(Protocol):
    """One model file, loaded, with example inputs in place.

    The profiler's model is another copy, loaded at the first profiled run: an attached profiler
    makes even the runs slower that it does not record.
    """

    @property
    def runtime(self) -> str:
        """Name and version, such as "onnxruntime 1.31.1"."""

    @property
    def times_operators(self) -> bool:
        """Whether there is a profiler; without one :meth:`run_profiled` is never called."""

    def run(self) -> None:
        """One inference without profiler."""

    def run_profiled(self, *, record: bool) -> float:
        """One inference with profiler; its wall time in us.

        ``record``: keep its operator times for :meth:`timings`.
        """

    @property
    def measured(self) -> Path:
        """The file that runs: the one given, or a copy of it that is there until closed."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on how the operator times came about, known after :meth:`timings`."""

    def timings(self, plain_us: Sequence[float] = ()) -> tuple[OpTiming, ...]:
        """The operators in order of execution, with one sample for each recorded run.

        ``plain_us`` are the wall times of runs without profiler, by which a profiler that counts
        its own work as the operators' is corrected (none: it is not). Ends profiling: no run
        after it. Raises ToolchainError where the runtime ran other operators from run to run.
        """

    def close(self) -> None:
        """Free the models; a second call does nothing."""


class RunnerOpener(Protocol):
    """:func:`open_runner` or :func:`open_device_runner`."""

    def __call__(self, path: str | Path, settings: RunSettings = ONE_THREAD) -> Runner: ...


def open_runner(
    path: str | Path,
    settings: RunSettings = ONE_THREAD,
) -> Runner:
    """A runner for ``path`` on the runtime of its format.

    Raises ModelFileError for a file the runtime does not accept, UnsupportedError for inputs that
    cannot be made up and for shapes, values and a signature that do not fit, ToolchainError where
    the runtime is missing or untried.
    """
    if format_of(path) == "tflite":
        from mnv4_deploy.profiles.runtimes.litert.open import open_litert

        return open_litert(path, settings)
    return _open_onnx(path, settings)


def open_plain_runner(
    path: str | Path,
    settings: RunSettings = ONE_THREAD,
) -> Runner:
    """:func:`open_runner` for files of which one crashed LiteRT's profiler: without it."""
    if format_of(path) == "tflite":
        from mnv4_deploy.profiles.runtimes.litert.open import open_end_to_end

        return open_end_to_end(path, settings, reason="it crashed")
    return _open_onnx(path, settings)


def open_device_runner(
    path: str | Path,
    settings: RunSettings = ONE_THREAD,
) -> Runner:
    """:func:`open_runner` on a device, with whatever runtime is there.

    A .tflite file runs end to end alone where there is another LiteRT than the tried one, which
    knows the first signature alone. Nodes of an .onnx file must have names of their own: onnx,
    which could rename them, is not there.
    """
    if format_of(path) == "onnx":
        return _open_onnx(path, settings, named=True)
    from mnv4_deploy.profiles.runtimes.litert.interpreter import installed_runtime

    if installed_runtime().times_operators:
        return open_runner(path, settings)
    if settings.signature:
        raise UnsupportedError(
            f"{installed_runtime().name} on the device runs the first signature alone: leave out"
            " --signature, or give --setup."
        )
    from mnv4_deploy.profiles.runtimes.litert.run_interpreter import InterpreterRunner

    return InterpreterRunner(path, settings)


def _open_onnx(path: str | Path, settings: RunSettings, *, named: bool = False) -> Runner:
    if settings.signature:
        raise UnsupportedError(f"{path} is an .onnx file, which has no signatures.")
    from mnv4_deploy.profiles.runtimes.ort.run import OrtRunner

    return OrtRunner(path, settings, named=named)
