"""Per-node and end-to-end times of .onnx files on onnxruntime, and the graph it really runs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from mnv4_deploy.errors import ToolchainError
from mnv4_deploy.profiles.files.own import scratch_folder
from mnv4_deploy.profiles.graph.onnx.renamed import name_notes, renamed_copy
from mnv4_deploy.profiles.records.inputs import ONE_THREAD, RunSettings
from mnv4_deploy.profiles.records.timing import OpTiming
from mnv4_deploy.profiles.runtimes.errors import translated
from mnv4_deploy.profiles.runtimes.ort.inputs import example_inputs, example_notes
from mnv4_deploy.profiles.runtimes.ort.overhead import (
    call_around,
    profiler_cost_us,
    units_of,
    with_held_as_one,
    without_profiler,
)
from mnv4_deploy.profiles.runtimes.ort.profile_file import NodeEvent, merge, read_profile, runs_of
from mnv4_deploy.profiles.runtimes.ort.session import open_session, runtime_name
from mnv4_deploy.profiles.runtimes.timing import time_run_us

# onnxruntime's profile ends at a million; as many are 300 MB of JSON.
_MAX_EVENTS = 300_000


class OrtRunner:
    """A :class:`~mnv4_deploy.profiles.runtimes.runners.Runner` of an .onnx file.

    Tag is the operator type, ``name`` the node's name; what the call of the session takes around
    its nodes is a row of its own. Nodes inside a branch or a loop have times
    of their own, and the node that holds them what is left; where those cannot be told apart from
    the profiler's work, they count as the node that holds them. ``named``: every node has a name
    of its own already, so that the file runs as it is and onnx is not needed.

    Raises ModelFileError for a file onnxruntime does not accept or cannot run, UnsupportedError
    for inputs that cannot be made up and values or shapes that do not fit, MemoryError for a file
    that needs more memory than there is, ToolchainError where onnxruntime is missing or its
    profile cannot be read.
    """

    def __init__(
        self,
        path: str | Path,
        settings: RunSettings = ONE_THREAD,
        *,
        named: bool = False,
    ) -> None:
        self._path = Path(path)
        self._threads = settings.threads
        self._stack = ExitStack()
        self._folder = self._stack.enter_context(scratch_folder())
        # The profile knows nodes by their names, which a file may use twice or leave out.
        copies = self._folder / "model"
        self.measured = self._path if named else renamed_copy(path, copies)
        self.runtime = runtime_name()
        with translated(self.runtime, "load", path):
            self._plain = open_session(self.measured, threads=settings.threads)
        self._feeds = example_inputs(self._plain, settings.shapes, settings.given)
        self._profiled: Any = None
        self._asked: list[_Asked] = []  # of each run of the session that profiles now
        self._events = 0  # of a run, once it is known
        self._recorded: list[tuple[NodeEvent, ...]] = []
        self._around_us: list[float] = []  # of each of them, before the first node and after all
        self.times_operators = True
        self.notes: tuple[str, ...] = (
            *(() if named else name_notes(self._path)),
            *example_notes(self._plain, settings.shapes, settings.given),
        )

    def run(self) -> None:
        self._call(self._plain)

    def run_profiled(self, *, record: bool) -> float:
        if self._profiled is None:
            self._start()
            # The profile has room for so many events, and a loop can make thousands in a run.
            self._profile(record=False)
            self._collect()
        if self._profiled is None or self._events * (len(self._asked) + 1) > _MAX_EVENTS:
            self._collect()
            self._start()
            self._profile(record=False)
        return self._profile(record=record)

    def _profile(self, *, record: bool) -> float:
        wall_us = time_run_us(lambda: self._call(self._profiled))
        self._asked.append(_Asked(record, wall_us))
        return wall_us

    def _start(self) -> None:
        with translated(self.runtime, "load", self._path):
            self._profiled = open_session(
                self.measured, threads=self._threads, profile_prefix=self._folder / "ort"
            )

    def _collect(self) -> None:
        """Read what was recorded so far; ends the session that profiles."""
        if self._profiled is None:
            return
        # onnxruntime's profiler cannot be paused: it also counted the runs not asked for.
        profile = Path(self._profiled.end_profiling())
        events = read_profile(profile)
        profile.unlink()
        runs = runs_of(events)
        if len(runs) != len(self._asked):
            raise ToolchainError(
                f"onnxruntime's profile of {self._path} holds {len(runs)} runs instead of"
                f" {len(self._asked)}: it is full, so ask for fewer runs."
            )
        self._events = len(events) // len(runs)
        for run, asked in zip(runs, self._asked, strict=True):
            if asked.record:
                self._recorded.append(run.nodes)
                self._around_us.append(max(0.0, asked.wall_us - run.span_us))
        self._profiled, self._asked = None, []

    def timings(self, plain_us: Sequence[float] = ()) -> tuple[OpTiming, ...]:
        self._collect()
        recorded = self._recorded
        cost_us = profiler_cost_us(recorded, plain_us)
        if cost_us:
            mean_us = cost_us * fmean(units_of(e) / (e.runs + e.held_runs) for e in recorded[0])
            self.notes += (
                f"onnxruntime's profiler adds {mean_us:.1f} us to a node on average, which is"
                " taken off: the nodes take that much longer together than a run without"
                " profiler.",
            )
            recorded = with_held_as_one(without_profiler(recorded, cost_us), recorded)
        nodes = merge(recorded, self._path)
        return nodes + call_around(nodes, self._around_us, plain_us)

    def close(self) -> None:
        self._plain = self._profiled = None
        self._stack.close()

    def _call(self, session: Any) -> None:
        try:  # which takes no time, unlike a context: this is measured
            session.run(None, self._feeds)
        except Exception:
            with translated(self.runtime, "run", self._path):
                raise


@dataclass(frozen=True)
class _Asked:
    """A run of the session that profiles: whether it counts, and the time of the call."""

    record: bool
    wall_us: float


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
