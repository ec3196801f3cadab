"""What several invocations of benchmark_model say about a file, as a TimedFile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mnv4_deploy.device.benchmark_model.order import in_run_order
from mnv4_deploy.device.benchmark_model.records import OpRow, OpTable, RowKind, RunLog
from mnv4_deploy.errors import ToolchainError
from mnv4_deploy.profiles.records.profile import Conditions, MeasureRequest, TimedFile
from mnv4_deploy.profiles.records.timing import Backend, OpProfile, OpTiming
from mnv4_deploy.profiles.runtimes.litert.capi import (
    EVENT_BUILTIN_OP,
    EVENT_RUNTIME,
    EVENT_XNNPACK_OP,
    ProfilerEvent,
)
from mnv4_deploy.profiles.runtimes.litert.xnnpack_events import (
    XNNPACK_TRUNCATION_US,
    partition_numbers,
)

RUNTIME = "LiteRT benchmark_model"

_KINDS: dict[RowKind, tuple[Backend, int]] = {
    "delegated": ("xnnpack", EVENT_XNNPACK_OP),
    "operator": ("builtin", EVENT_BUILTIN_OP),
    "delegate kernel": ("builtin", EVENT_BUILTIN_OP),
    "other": ("runtime", EVENT_RUNTIME),
}


@dataclass(frozen=True)
class Profiled:
    """An invocation with profiler."""

    log: RunLog
    table: OpTable


def to_timed(
    request: MeasureRequest, plain: Sequence[RunLog], profiled: Sequence[Profiled]
) -> TimedFile:
    """One sample an invocation: the tool gives statistics of its runs, not single runs.

    A sample is the least time, of the runs as of each operator, where the tool gives that for
    operators, else the average; ``notes`` say which. Without times of operators (no profiler, or
    an order that cannot be told) ``profile.ops`` is empty. Raises ToolchainError where
    invocations ran different operators.
    """
    runs = [in_run_order(p.table) for p in profiled]
    known = [rows for rows in runs if rows is not None]
    told = bool(profiled) and len(known) == len(profiled)
    least = not told or all(row.min_us is not None for rows in known for row in rows)
    ops = _timings(known, request.path, least=least) if told else ()
    rounds = tuple((_wall_us(log, least=least),) for log in plain)
    profiled_rounds = tuple((_wall_us(p.log, least=least),) for p in profiled) if told else ()
    return TimedFile(
        profile=OpProfile(
            path=request.path,
            runtime=RUNTIME,
            threads=request.threads,
            ops=ops,
        ),
        cpus=request.cpus or (),
        rounds_us=rounds,
        profiled_rounds_us=profiled_rounds,
        conditions=Conditions(spin_us=()),
        notes=tuple(_notes(request, plain, profiled, known if told else [], least=least)),
    )


def _wall_us(log: RunLog, *, least: bool) -> float:
    return log.inference.min if least else log.inference.avg


def _timings(runs: Sequence[Sequence[OpRow]], path: str, *, least: bool) -> tuple[OpTiming, ...]:
    identities = [[(row.name, row.tag) for row in rows] for rows in runs]
    if any(identity != identities[0] for identity in identities[1:]):
        raise ToolchainError(
            f"benchmark_model ran other operators of {path} from one invocation to the next, so"
            " their times cannot be put together: profile a file without loops."
        )
    events = [
        ProfilerEvent(row.tag, _KINDS[row.kind][1], 0, row.number or 0, 0) for row in runs[0]
    ]
    timings = []
    for at, (row, partition) in enumerate(zip(runs[0], partition_numbers(events), strict=True)):
        backend = _KINDS[row.kind][0]
        rest_us = XNNPACK_TRUNCATION_US if backend == "xnnpack" else 0.0
        timings.append(
            OpTiming(
                tag=row.tag,
                backend=backend,
                samples_us=tuple(_row_us(rows[at], least=least) + rest_us for rows in runs),
                partition=partition,
                op_index=row.number if backend == "builtin" else None,
            )
        )
    return tuple(timings)


def _row_us(row: OpRow, *, least: bool) -> float:
    # The least of a row with several operators is that of the smallest of them.
    return row.min_us if least and row.min_us is not None and row.times_called == 1 else row.avg_us


def _notes(
    request: MeasureRequest,
    plain: Sequence[RunLog],
    profiled: Sequence[Profiled],
    runs: Sequence[Sequence[OpRow]],
    *,
    least: bool,
) -> list[str]:
    logs = [*plain, *(p.log for p in profiled)]
    runs_each = -(-request.runs // len(plain))
    notes = [
        f"benchmark_model gives the {'least' if least else 'average'} of its runs, not single"
        f" runs: each sample is that of one invocation, of up to {runs_each} runs."
    ]
    if any(log.not_delegated for log in logs):
        notes.append("XNNPACK took no operator of this model: the built-in kernels ran it.")
    if not profiled:
        notes.append("This build of benchmark_model gives no times of operators.")
    elif not runs:
        notes.append(_why_no_operators(profiled[0].table))
    elif repeated := sum(row.times_called > 1 for row in runs[0]):
        notes.append(
            f"{repeated} operators have the same kernel and number in several partitions:"
            " benchmark_model adds them up, and each is given their average."
        )
    return notes


def _why_no_operators(table: OpTable) -> str:
    if not any(row.kind == "delegated" for row in table.rows):
        return (
            "This build of benchmark_model gives no times of operators inside XNNPACK: a build"
            " since TensorFlow 2.10 does."
        )
    sentence = (
        "benchmark_model adds up operators of the same kernel and number in different"
        " partitions, and those of this model cannot be taken apart again"
    )
    if any(row.run_order is None for row in table.rows):
        return f"{sentence}: a newer build, with --op_profiling_output_mode, tells more."
    return f"{sentence}."
