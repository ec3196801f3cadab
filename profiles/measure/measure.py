"""Times model files in turns: here with their graphs, or on a device for another machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from mnv4_deploy.errors import DeployError
from mnv4_deploy.profiles.graph.format import format_of
from mnv4_deploy.profiles.isolated import NativeCrashError, run_isolated
from mnv4_deploy.profiles.measure.checks import check_requests, pin_to
from mnv4_deploy.profiles.measure.conditions import ConditionsSampler
from mnv4_deploy.profiles.measure.rounds import Samples, take_turns
from mnv4_deploy.profiles.records.inputs import RunSettings
from mnv4_deploy.profiles.records.profile import Measurement, MeasureRequest, TimedFile
from mnv4_deploy.profiles.records.timing import OpProfile
from mnv4_deploy.profiles.runtimes.runners import (
    Runner,
    RunnerOpener,
    open_device_runner,
    open_plain_runner,
    open_runner,
)

# Loading, one long run and reading the graph come on top of the time limit.
_STARTUP_S = 60.0
_TIMEOUT_PER_SECOND = 6.0


def measure(
    requests: Sequence[MeasureRequest],
    *,
    timeout_s: float | None = None,
    memory_bytes: int | None = None,
) -> tuple[Measurement, ...]:
    """:func:`measure_here` in a child process, where a native crash is an error and not ours.

    ``timeout_s`` follows from the requests' ``max_seconds`` unless given; ``memory_bytes`` limits
    the child's address space. Raises as :func:`measure_here`, and ModelFileError where the
    runtime crashes, runs out of memory or does not come back.
    """
    limit_s = timeout_of(requests) if timeout_s is None else timeout_s

    def isolated(profile: bool) -> tuple[Measurement, ...]:
        return run_isolated(
            measure_here,
            tuple(requests),
            profile,
            timeout_s=limit_s,
            subject=" or ".join(request.path for request in requests),
            memory_bytes=memory_bytes,
        )

    try:
        return isolated(True)
    except NativeCrashError as crash:
        if all(format_of(request.path) != "tflite" for request in requests):
            raise
        # LiteRT's profiler takes fewer files than its interpreter, and crashes on some.
        try:
            return isolated(False)
        except DeployError:
            raise crash from None


def timeout_of(requests: Sequence[MeasureRequest]) -> float:
    """Seconds after which a child that measures ``requests`` does not come back any more."""
    return sum(_STARTUP_S + _TIMEOUT_PER_SECOND * r.max_seconds for r in requests)


def measure_here(
    requests: Sequence[MeasureRequest], profile: bool = True
) -> tuple[Measurement, ...]:
    """Time the files in turns and join the times with their graphs, in this process.

    Without ``profile`` .tflite files run end to end, on the interpreter.

    The requests differ in path, threads and shapes; rounds, time limit and CPUs are the first
    one's. Pins this process to the CPUs asked for. Raises ModelFileError for what is no model,
    UnsupportedError for requests that cannot be met, ToolchainError for runtimes that are
    missing or fail, MemoryError for files that need more memory than there is.
    """
    from mnv4_deploy.profiles.measure.join import join_timed

    with _timed(requests, open_runner if profile else open_plain_runner) as (runners, timed):
        # The graphs come last: reading one runs the file, which must not disturb the times.
        return tuple(
            join_timed(request, times, runner.measured)
            for request, times, runner in zip(requests, timed, runners, strict=True)
        )


def time_again(requests: Sequence[MeasureRequest], profile: bool = True) -> tuple[TimedFile, ...]:
    """:func:`measure_here` without the graphs, of files whose graphs are known; raises so too."""
    with _timed(requests, open_runner if profile else open_plain_runner) as (_, timed):
        return timed


def time_here(requests: Sequence[MeasureRequest]) -> tuple[TimedFile, ...]:
    """Time the files of a device in turns, in this process, which runs on it.

    As :func:`measure_here` without the graphs: needs NumPy and the runtime of the files' format,
    whichever of them the device has
    (:func:`~mnv4_deploy.profiles.runtimes.runners.open_device_runner`). Nodes of .onnx files must
    have names of their own already. Raises as :func:`measure_here`.
    """
    with _timed(requests, open_device_runner) as (_, timed):
        return timed


@contextmanager
def _timed(
    requests: Sequence[MeasureRequest], opened_by: RunnerOpener = open_runner
) -> Iterator[tuple[Sequence[Runner], tuple[TimedFile, ...]]]:
    """The runners, still open, and the times that they took."""
    check_requests(requests)
    first = requests[0]
    cpus = pin_to(first.cpus)
    with ExitStack() as stack:
        runners = [
            stack.enter_context(
                closing(opened_by(r.path, RunSettings(r.threads, r.shapes, r.inputs, r.signature)))
            )
            for r in requests
        ]
        conditions = ConditionsSampler()
        samples = take_turns(
            runners,
            runs=first.runs,
            warmup=first.warmup,
            max_seconds=first.max_seconds,
            after_round=conditions.spin,
        )
        seen = conditions.finish()
        yield (
            runners,
            tuple(
                # Notes are known once there are timings, which the profile asks for.
                TimedFile(
                    profile=_profile(request, runner, times),
                    cpus=cpus,
                    rounds_us=tuple(times.plain),
                    profiled_rounds_us=tuple(times.profiled),
                    cpu_rounds_us=tuple(times.cpu),
                    conditions=seen,
                    notes=runner.notes,
                )
                for request, runner, times in zip(requests, runners, samples, strict=True)
            ),
        )


def profile_file(
    path: str | Path, *, threads: int = 1, warmup: int = 5, runs: int = 50
) -> OpProfile:
    """Times of every operator of ``path`` that ran, in this process; raises as measure_here."""
    request = MeasureRequest(str(path), threads=threads, warmup=warmup, runs=runs)
    with closing(open_runner(path, RunSettings(threads=threads))) as runner:
        (times,) = take_turns([runner], runs=runs, warmup=warmup, max_seconds=request.max_seconds)
        return _profile(request, runner, times)


def _profile(request: MeasureRequest, runner: Runner, times: Samples) -> OpProfile:
    return OpProfile(
        path=request.path,
        runtime=runner.runtime,
        threads=request.threads,
        ops=runner.timings([us for burst in times.plain for us in burst]),
    )
