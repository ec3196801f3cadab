"""Per-node and end-to-end times of .onnx files on onnxruntime, and the graph it really runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv4_deploy.errors import ToolchainError, UnsupportedError
from mnv4_deploy.profiles.files.own import scratch_folder
from mnv4_deploy.profiles.graph.renamed import renamed_copy
from mnv4_deploy.profiles.graph.shapes import check_names, resolve_shape
from mnv4_deploy.profiles.records.timing import OpTiming
from mnv4_deploy.profiles.runtimes.errors import translated
from mnv4_deploy.profiles.runtimes.open_onnx import element_type, open_session, runtime_name
from mnv4_deploy.profiles.runtimes.ort_overhead import profiler_cost_us, units_of, without_profiler
from mnv4_deploy.profiles.runtimes.ort_profile import merge, read_profile, runs_of
from mnv4_deploy.profiles.runtimes.timing import example_input, time_run_us


def example_inputs(
    session: Any, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> dict[str, NDArray[Any]]:
    """Example inputs of the shapes that :func:`resolve_shape` finds, by name.

    Raises UnsupportedError for inputs that are no tensors of numbers and for shapes that are
    open or do not fit.
    """
    specs = session.get_inputs()
    check_names(shapes or {}, [spec.name for spec in specs])
    feeds = {}
    for spec in specs:
        dtype = element_type(spec)
        if not _is_numeric(dtype):
            raise UnsupportedError(
                f"Input {spec.name} is a {spec.type}, which cannot be made up: give a model"
                " with numeric tensors as inputs."
            )
        shape = resolve_shape(spec.name, spec.shape, shapes or {}, only=len(specs) == 1)
        feeds[spec.name] = example_input(shape, dtype)
    return feeds


def _is_numeric(dtype: str) -> bool:
    """Whether NumPy has these numbers; bfloat16 and sequences it has not."""
    try:
        return np.dtype(dtype).kind in "biuf"
    except TypeError:
        return False


class OrtRunner:
    """A :class:`~mnv4_deploy.profiles.runtimes.runners.Runner` of an .onnx file.

    Tag is the operator type, ``name`` the node's name; nodes inside a branch or a loop count as
    the node that holds them. ``named``: every node has a name of its own already, so that the
    file runs as it is and onnx is not needed.

    Raises ModelFileError for a file onnxruntime does not accept or cannot run, UnsupportedError
    for inputs that cannot be made up or a shape that does not fit, MemoryError for a file that
    needs more memory than there is, ToolchainError where onnxruntime is missing or its profile
    cannot be read.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        threads: int = 1,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
        named: bool = False,
    ) -> None:
        self._path = Path(path)
        self._threads = threads
        self._stack = ExitStack()
        self._folder = self._stack.enter_context(scratch_folder())
        # The profile knows nodes by their names, which a file may use twice or leave out.
        copies = self._folder / "model"
        self.measured = self._path if named else renamed_copy(path, copies)
        self.runtime = runtime_name()
        with translated(self.runtime, "load", path):
            self._plain = open_session(self.measured, threads=threads)
        self._feeds = example_inputs(self._plain, shapes)
        self._profiled: Any = None
        self._recorded: list[bool] = []
        self.times_operators = True
        self.notes: tuple[str, ...] = ()

    def run(self) -> None:
        self._call(self._plain)

    def run_profiled(self, *, record: bool) -> float:
        if self._profiled is None:
            with translated(self.runtime, "load", self._path):
                self._profiled = open_session(
                    self.measured, threads=self._threads, profile_prefix=self._folder / "ort"
                )
        self._recorded.append(record)
        return time_run_us(lambda: self._call(self._profiled))

    def timings(self, plain_us: Sequence[float] = ()) -> tuple[OpTiming, ...]:
        if self._profiled is None:
            return ()
        # onnxruntime's profiler cannot be paused: it also counted the runs not asked for.
        runs = runs_of(read_profile(Path(self._profiled.end_profiling())))
        if len(runs) != len(self._recorded):
            raise ToolchainError(
                f"onnxruntime's profile of {self._path} holds {len(runs)} runs instead of"
                f" {len(self._recorded)}: it is full, so ask for fewer runs."
            )
        recorded = [run for run, keep in zip(runs, self._recorded, strict=True) if keep]
        timings = merge(recorded, self._path)
        cost_us = profiler_cost_us(recorded, plain_us)
        if not cost_us:
            return timings
        self.notes = (
            "onnxruntime's profiler adds"
            f" {cost_us * fmean(map(units_of, recorded[0])):.1f} us to a node on average, which is"
            " taken off: the nodes take that much longer together than a run without profiler.",
        )
        return merge(without_profiler(recorded, cost_us), self._path)

    def close(self) -> None:
        self._plain = self._profiled = None
        self._stack.close()

    def _call(self, session: Any) -> None:
        try:  # which takes no time, unlike a context: this is measured
            session.run(None, self._feeds)
        except Exception:
            with translated(self.runtime, "run", self._path):
                raise


def optimized_graph(path: str | Path, *, traceable: bool = False, arm: bool = False) -> Any:
    """The ``onnx.ModelProto`` that onnxruntime really runs for ``path`` on this machine.

    ``traceable``: the same before its last steps, with the file's tensor names still in it.
    ``arm``: what it runs on Arm instead, but for single convolutions that it may turn to NHWC.
    Weights that the file keeps beside it are left there.
    """
    import onnx

    with scratch_folder() as folder:
        target = folder / "optimized.onnx"
        with translated(runtime_name(), "load", path):
            open_session(path, optimized_path=target, traceable=traceable, arm=arm)
        return onnx.load(target, load_external_data=False)
