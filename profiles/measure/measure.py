"""Measures model files in a child process: times in rounds, graph, and what ran where."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import cast

from mnv4_deploy.graph_records import ModelGraph
from mnv4_deploy.profile_records import Conditions, JoinedLayer, Measurement, MeasureRequest
from mnv4_deploy.profiles.inspect import sha256_of
from mnv4_deploy.profiles.isolated import run_isolated
from mnv4_deploy.profiles.measure.checks import check_requests, pin_to
from mnv4_deploy.profiles.measure.conditions import ConditionsSampler
from mnv4_deploy.profiles.measure.rounds import Samples, take_turns
from mnv4_deploy.profiles.measure.runners import Runner, format_of, open_runner
from mnv4_deploy.records import OpProfile, OpTiming

_HERE = "mnv4_deploy.profiles.measure.measure:measure_here"
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
    if timeout_s is None:
        timeout_s = sum(_STARTUP_S + _TIMEOUT_PER_SECOND * r.max_seconds for r in requests)
    found = run_isolated(
        _HERE,
        tuple(requests),
        timeout_s=timeout_s,
        subject=" or ".join(request.path for request in requests),
        memory_bytes=memory_bytes,
    )
    return cast("tuple[Measurement, ...]", found)


def measure_here(requests: Sequence[MeasureRequest]) -> tuple[Measurement, ...]:
    """Time the files in turns and join the times with their graphs, in this process.

    The requests differ in path, threads and shapes; rounds, time limit and CPUs are the first
    one's. Pins this process to the CPUs asked for. Raises ModelFileError for what is no model,
    UnsupportedError for requests that cannot be met, ToolchainError for runtimes that are
    missing or fail, MemoryError for files that need more memory than there is.
    """
    check_requests(requests)
    first = requests[0]
    cpus = pin_to(first.cpus)
    with ExitStack() as stack:
        runners = [
            stack.enter_context(closing(open_runner(r.path, threads=r.threads, shapes=r.shapes)))
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
        profiles = [
            _profile(request, runner, times)
            for request, runner, times in zip(requests, runners, samples, strict=True)
        ]
        # The graphs come last: reading one runs the file, which must not disturb the times.
        return tuple(
            _measurement(request, runner, profile, times, cpus, seen)
            for request, runner, profile, times in zip(
                requests, runners, profiles, samples, strict=True
            )
        )


def profile_file(
    path: str | Path, *, threads: int = 1, warmup: int = 5, runs: int = 50
) -> OpProfile:
    """Times of every operator of ``path`` that ran, in this process; raises as measure_here."""
    request = MeasureRequest(str(path), threads=threads, warmup=warmup, runs=runs)
    with closing(open_runner(path, threads=threads)) as runner:
        (times,) = take_turns([runner], runs=runs, warmup=warmup, max_seconds=request.max_seconds)
        return _profile(request, runner, times)


def _profile(request: MeasureRequest, runner: Runner, times: Samples) -> OpProfile:
    wall_us = tuple(us for burst in times.plain for us in burst)
    return OpProfile(
        path=request.path,
        runtime=runner.runtime,
        threads=request.threads,
        ops=runner.timings(wall_us),
        wall_us=wall_us,
        profiled_wall_us=tuple(us for burst in times.profiled for us in burst),
    )


def _measurement(
    request: MeasureRequest,
    runner: Runner,
    profile: OpProfile,
    times: Samples,
    cpus: tuple[int, ...],
    conditions: Conditions,
) -> Measurement:
    from mnv4_deploy.profiles.graph.read import read_graph_of

    file = Path(request.path)
    graph = read_graph_of(file, request.shapes)
    return Measurement(
        path=request.path,
        format=format_of(file),
        runtime=profile.runtime,
        size_bytes=file.stat().st_size,
        sha256=sha256_of(file),
        threads=request.threads,
        cpus=cpus,
        graph=graph,
        profile=profile,
        layers=_join(runner.measured, graph, profile.ops),
        rounds_us=tuple(times.plain),
        profiled_rounds_us=tuple(times.profiled),
        conditions=conditions,
        refusals=_refusals(file, profile.ops),
        notes=runner.notes,
    )


def _join(
    measured: Path, graph: ModelGraph, timings: Sequence[OpTiming]
) -> tuple[JoinedLayer, ...]:
    if graph.format == "tflite":
        from mnv4_deploy.profiles.join.xnnpack import join_xnnpack

        return join_xnnpack(graph, timings)
    from mnv4_deploy.profiles.join.ort import join_ort, trace_ort

    return join_ort(graph, timings, trace_ort(measured))


def _refusals(path: Path, timings: Sequence[OpTiming]) -> dict[int, str]:
    """Why XNNPACK did not take the operators that ran in built-in kernels, by index."""
    builtin = [t.op_index for t in timings if t.kind == "builtin" and t.op_index is not None]
    if not builtin:
        return {}
    from mnv4_deploy.profiles.tflite_graph import read_graph
    from mnv4_deploy.profiles.xnnpack_rules import explain_refusal

    graph = read_graph(path)
    return {index: explain_refusal(graph, graph.ops[index]) for index in builtin}
