"""End-to-end times of .tflite files on any LiteRT or TFLite interpreter, without its profiler.

What a device has need not be the one version whose C structs are known here. The interpreter's
Python interface is the same in all of them, and tells no operator's time.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mnv4_deploy.errors import ModelFileError, ToolchainError, UnsupportedError
from mnv4_deploy.profiles.graph.shapes import check_names, resolve_shape
from mnv4_deploy.profiles.records.timing import OpTiming
from mnv4_deploy.profiles.runtimes.litert_library import TRIED_VERSIONS
from mnv4_deploy.profiles.runtimes.native_log import captured_stderr
from mnv4_deploy.profiles.runtimes.timing import example_input

# The best first: distribution, package.
_RUNTIMES = (("ai-edge-litert", "ai_edge_litert"), ("tflite-runtime", "tflite_runtime"))
_OUT_OF_MEMORY = ("bad_alloc", "failed to allocate", "Failed to allocate", "out of memory")


@dataclass(frozen=True)
class InterpreterRuntime:
    """An installed package with a TFLite interpreter in it.

    ``times_operators``: its profiler can be read too, by
    :class:`~mnv4_deploy.profiles.runtimes.run_xnnpack.XnnpackRunner`.
    """

    distribution: str
    package: str
    version: str

    @property
    def name(self) -> str:
        return f"{self.distribution} {self.version}"

    @property
    def times_operators(self) -> bool:
        return self.package == "ai_edge_litert" and self.version in TRIED_VERSIONS


def installed_runtime() -> InterpreterRuntime:
    """ai-edge-litert of any version, else tflite-runtime; ToolchainError where neither is."""
    for distribution, package in _RUNTIMES:
        if importlib.util.find_spec(package) is None:
            continue
        try:
            version = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:  # put there by other means than pip
            version = "of unknown version"
        return InterpreterRuntime(distribution, package, version)
    raise ToolchainError(
        "Running a .tflite file needs ai-edge-litert or tflite-runtime, and neither is installed:"
        f" give --setup, or install ai-edge-litert=={TRIED_VERSIONS[-1]} on the device."
    )


class InterpreterRunner:
    """A :class:`~mnv4_deploy.profiles.runtimes.runners.Runner` of a .tflite file, end to end only.

    Runs as an application gets it: with XNNPACK where the package was built with it, which the
    official ones are.

    Raises ModelFileError for a file that the runtime does not accept or cannot run,
    UnsupportedError for inputs that cannot be made up or a shape that does not fit, MemoryError
    for a file that needs more memory than there is, ToolchainError where the runtime itself
    cannot be loaded.
    """

    def __init__(
        self,
        path: str | Path,
        runtime: InterpreterRuntime,
        *,
        threads: int = 1,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        self.measured = Path(path)
        self.runtime = runtime.name
        self.times_operators = False
        self.notes: tuple[str, ...] = (
            f"{runtime.name} gives no times of operators: for those give --setup, or install"
            f" ai-edge-litert=={TRIED_VERSIONS[-1]} on the device.",
        )
        interpreter_class = _interpreter_class(runtime)
        with captured_stderr():  # where it announces its delegate
            try:
                interpreter = interpreter_class(str(path), num_threads=threads)
                _feed(interpreter, shapes or {})
                interpreter.invoke()  # not every operator fails before it runs
            except (RuntimeError, ValueError) as error:
                raise self._refused(error) from error
        self._interpreter = interpreter

    def run(self) -> None:
        self._interpreter.invoke()

    def run_profiled(self, *, record: bool) -> float:
        raise NotImplementedError(f"{self.runtime} has no profiler ({record=})")

    def timings(self, plain_us: Sequence[float] = ()) -> tuple[OpTiming, ...]:  # noqa: ARG002
        return ()

    def close(self) -> None:
        self._interpreter = None

    def _refused(self, error: Exception) -> Exception:
        reason = str(error).strip().partition("\n")[0]
        if any(sign in str(error) for sign in _OUT_OF_MEMORY):
            return MemoryError(f"{self.measured}: {reason}")
        return ModelFileError(f"{self.runtime} cannot run {self.measured}: {reason}")


def _feed(interpreter: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Give every input of ``interpreter`` its shape and an example."""
    specs = interpreter.get_input_details()
    check_names(shapes, [spec["name"] for spec in specs])
    for spec in specs:
        if np.dtype(spec["dtype"]).kind not in "biuf":
            raise UnsupportedError(
                f"Input {spec['name']} holds no numbers, so it cannot be made up: give a"
                " model with numeric tensors as inputs."
            )
        dims = spec["shape_signature"] if len(spec["shape_signature"]) else spec["shape"]
        shape = resolve_shape(spec["name"], [int(d) for d in dims], shapes, only=len(specs) == 1)
        if shape != tuple(spec["shape"]):
            interpreter.resize_tensor_input(spec["index"], shape)
    interpreter.allocate_tensors()
    for spec in interpreter.get_input_details():
        array = example_input(spec["shape"], np.dtype(spec["dtype"]).name)
        interpreter.set_tensor(spec["index"], array)


def _interpreter_class(runtime: InterpreterRuntime) -> Any:
    try:
        return importlib.import_module(f"{runtime.package}.interpreter").Interpreter
    except (ImportError, AttributeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ToolchainError(
            f"{runtime.name} cannot be loaded ({reason}): reinstall it, or give --setup."
        ) from error
