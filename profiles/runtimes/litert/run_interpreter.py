"""End-to-end times of .tflite files on any LiteRT or TFLite interpreter, without its profiler.

What a device has need not be the one version whose C structs are known here, and not every file
runs behind LiteRT's profiler. The interpreter's Python interface is the same in all versions, and
tells no operator's time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mnv4_deploy.profiles.graph.given_inputs import shapes_with
from mnv4_deploy.profiles.graph.shapes import check_names, resolve_shape
from mnv4_deploy.profiles.graph.tflite.primary import with_first
from mnv4_deploy.profiles.records.inputs import ONE_THREAD, RunSettings
from mnv4_deploy.profiles.records.timing import OpTiming
from mnv4_deploy.profiles.runtimes.errors import translated
from mnv4_deploy.profiles.runtimes.litert.interpreter import (
    allocate,
    installed_runtime,
    open_interpreter,
    set_examples,
)
from mnv4_deploy.profiles.runtimes.litert.library import TRIED_VERSIONS
from mnv4_deploy.profiles.runtimes.native_log import captured_stderr


class InterpreterRunner:
    """A :class:`~mnv4_deploy.profiles.runtimes.runners.Runner` of a .tflite file, end to end only.

    Runs as an application gets it: with XNNPACK where the package was built with it, which the
    official ones are. ``subgraph`` is the number of the graph that runs, ``why`` a sentence on why
    no operators are timed ("": the runtime cannot). ``grew``: outputs got their size in the run.

    Raises ModelFileError for a file that the runtime does not accept or cannot run,
    UnsupportedError for inputs that cannot be made up or a shape that does not fit, MemoryError
    for a file that needs more memory than there is, ToolchainError where the runtime itself
    cannot be loaded.
    """

    def __init__(
        self,
        path: str | Path,
        settings: RunSettings = ONE_THREAD,
        *,
        subgraph: int = 0,
        why: str = "",
    ) -> None:
        self.measured = Path(path)
        self.runtime = installed_runtime().name
        self.times_operators = False
        self.notes: tuple[str, ...] = (
            why
            or f"{self.runtime} gives no times of operators: for those give --setup, or install"
            f" ai-edge-litert=={TRIED_VERSIONS[-1]} on the device.",
        )
        # The interpreter announces its delegate on standard error.
        with captured_stderr(), translated(self.runtime, "run", path):
            file = with_first(Path(path), subgraph)
            interpreter = open_interpreter(file, threads=settings.threads)
            _feed(interpreter, settings)
            before = _output_shapes(interpreter)
            interpreter.invoke()  # not every operator fails before it runs
        self._interpreter = interpreter
        self.grew = _output_shapes(interpreter) != before

    def run(self) -> None:
        self._interpreter.invoke()

    def run_profiled(self, *, record: bool) -> float:
        raise NotImplementedError(f"{self.runtime} has no profiler ({record=})")

    def timings(self, plain_us: Sequence[float] = ()) -> tuple[OpTiming, ...]:  # noqa: ARG002
        return ()

    def close(self) -> None:
        self._interpreter = None


def _output_shapes(interpreter: Any) -> list[tuple[int, ...]]:
    return [tuple(map(int, spec["shape"])) for spec in interpreter.get_output_details()]


def _feed(interpreter: Any, settings: RunSettings) -> None:
    """Give every input of ``interpreter`` its shape and an example."""
    specs = interpreter.get_input_details()
    ranks = {spec["name"]: len(spec["shape"]) for spec in specs}
    shapes = shapes_with(settings.shapes, settings.given, ranks)
    check_names(shapes, [spec["name"] for spec in specs])
    only = len(specs) == 1
    new = {}
    for spec in specs:
        dims = spec["shape_signature"] if len(spec["shape_signature"]) else spec["shape"]
        shape = resolve_shape(spec["name"], [int(d) for d in dims], shapes, only=only)
        if shape != tuple(spec["shape"]):
            new[spec["index"]] = shape
    allocate(interpreter, new)
    set_examples(interpreter, settings.given)
