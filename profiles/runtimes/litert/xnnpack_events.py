"""LiteRT's profiler events as operators with times that add up to a run without the profiler."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from mnv4_deploy.errors import ToolchainError
from mnv4_deploy.profiles.records.timing import Backend, OpTiming
from mnv4_deploy.profiles.runtimes.litert.capi import (
    EVENT_BUILTIN_OP,
    EVENT_RUNTIME,
    EVENT_XNNPACK_OP,
    ProfilerEvent,
)

_BACKENDS: dict[int, Backend] = {
    EVENT_XNNPACK_OP: "xnnpack",
    EVENT_BUILTIN_OP: "builtin",
    EVENT_RUNTIME: "runtime",
}
# The runtime's own event around all operators: it would count every one of them twice.
_ENCLOSING_TAG = "Invoke"
# Events around a run; LiteRT gives them the number of the first graph, whichever ran.
_AROUND = "LiteRT::Run"
# XNNPACK divides the nanoseconds between the ends of two operators by 1000 and drops the rest
# (xnn_get_elapsed_time in runtime.c): n us stand for anything from n to n + 1. Events of LiteRT
# are differences of two truncated clocks, which are right on average.
XNNPACK_TRUNCATION_US = 0.5
_WORTH_A_NOTE = 0.1  # of a run

Runs = Sequence[tuple[ProfilerEvent, ...]]


@dataclass(frozen=True)
class Correction:
    """What makes of an event's time that of its operator.

    ``rest_us`` is what XNNPACK dropped of each of its operators, on average. The factors cut what
    the profiler's own work added: to the work around the operators, to operators that run other
    graphs (their time holds the profiler's work for those), and to all others.
    """

    rest_us: float = XNNPACK_TRUNCATION_US
    around: float = 1.0
    enclosing: float = 1.0
    operators: float = 1.0

    def of(self, backend: Backend, elapsed_us: float, *, encloses: bool) -> float:
        if backend == "runtime":
            return elapsed_us * self.around
        if backend == "xnnpack":
            return (elapsed_us + self.rest_us) * self.operators
        return elapsed_us * self.operators * (self.enclosing if encloses else 1.0)


def operator_events(
    events: Sequence[ProfilerEvent], subgraph: int = 0
) -> tuple[ProfilerEvent, ...]:
    """The events that are operators of graph number ``subgraph`` or separate runtime work, in
    order of execution.

    What an operator runs of other graphs (the body of a loop) is in that operator's time.
    """
    return tuple(
        e
        for e in events
        if e.type in _BACKENDS
        and e.tag != _ENCLOSING_TAG
        and (e.subgraph == subgraph or e.tag.startswith(_AROUND))
    )


def partition_numbers(events: Sequence[ProfilerEvent]) -> list[int | None]:
    """For each event the delegated partition it ran in, None outside XNNPACK.

    XNNPACK numbers its operators from 0 in every partition, so a number that does not grow, or
    an operator of another kind in between, is a border.
    """
    numbers: list[int | None] = []
    partition = -1
    previous: int | None = None
    for event in events:
        if event.type != EVENT_XNNPACK_OP:
            previous = None
            numbers.append(None)
            continue
        if previous is None or event.index <= previous:
            partition += 1
        previous = event.index
        numbers.append(partition)
    return numbers


def merge(
    recorded: Runs,
    path: str | Path,
    plain_us: Sequence[float] = (),
    enclosing: Collection[int] = (),
) -> tuple[OpTiming, ...]:
    """The events of several runs of ``path``, which must be the same but for their times.

    ``plain_us`` are wall times of runs without profiler, to which the operators' least times then
    add up at most; ``enclosing`` are the operators that run other graphs.
    """
    if not recorded:
        return ()
    first = recorded[0]
    identity = [(e.tag, e.type, e.index) for e in first]
    if any([(e.tag, e.type, e.index) for e in run] != identity for run in recorded[1:]):
        raise ToolchainError(
            f"{path} runs other operators from run to run (control flow), so their times cannot"
            " be averaged: profile a file without loops."
        )
    correction = correction_of(recorded, plain_us, enclosing)
    timings = []
    for position, (event, partition) in enumerate(
        zip(first, partition_numbers(first), strict=True)
    ):
        backend = _BACKENDS[event.type]
        encloses = backend == "builtin" and event.index in enclosing
        timings.append(
            OpTiming(
                tag=event.tag,
                backend=backend,
                samples_us=tuple(
                    correction.of(backend, run[position].elapsed_us, encloses=encloses)
                    for run in recorded
                ),
                partition=partition,
                op_index=event.index if backend == "builtin" else None,
            )
        )
    return tuple(timings)


def correction_of(
    recorded: Runs, plain_us: Sequence[float], enclosing: Collection[int] = ()
) -> Correction:
    """What makes the least times of all operators add up to the least of ``plain_us`` at most.

    What a run leaves over beside the operators is first what XNNPACK dropped of its own, at most
    half a microsecond each, then the work around them. Where operators exceed the run, those that
    run other graphs are cut first.
    """
    if not recorded or not plain_us:
        return Correction()
    wall_us = min(plain_us)
    least = [
        (event, min(run[at].elapsed_us for run in recorded))
        for at, event in enumerate(recorded[0])
    ]
    inside = sum(e.type == EVENT_XNNPACK_OP for e, _ in least)
    around_us = sum(us for e, us in least if e.type == EVENT_RUNTIME)
    enclosing_us = sum(
        us for e, us in least if e.type == EVENT_BUILTIN_OP and e.index in enclosing
    )
    rest_of_us = sum(us for e, us in least if e.type != EVENT_RUNTIME) - enclosing_us
    left_us = wall_us - rest_of_us - enclosing_us
    rest_us = min(max(left_us, 0.0) / inside, XNNPACK_TRUNCATION_US) if inside else 0.0
    left_us -= rest_us * inside
    cut_us = min(enclosing_us, max(0.0, -left_us))
    operators_us = rest_of_us + rest_us * inside + enclosing_us - cut_us
    return Correction(
        rest_us=rest_us,
        around=min(1.0, max(0.0, left_us) / around_us) if around_us else 1.0,
        enclosing=1 - cut_us / enclosing_us if enclosing_us else 1.0,
        operators=min(1.0, wall_us / operators_us) if operators_us else 1.0,
    )


def correction_notes(
    recorded: Runs, correction: Correction, plain_us: Sequence[float]
) -> tuple[str, ...]:
    """What the user should know of ``correction``, where it makes up much of a run."""
    if not recorded or not plain_us:
        return ()
    wall_us = min(plain_us)
    notes = []
    at = range(len(recorded[0]))
    unresolved = sum(
        recorded[0][i].type == EVENT_XNNPACK_OP and not min(run[i].elapsed_us for run in recorded)
        for i in at
    )
    if unresolved * correction.rest_us > _WORTH_A_NOTE * wall_us:
        notes.append(
            "Operators in XNNPACK that take less than the microsecond that its profiler counts in:"
            f" {unresolved}. What a run leaves over is spread evenly over all that are in it."
        )
    if min(correction.enclosing, correction.operators) < 1 - _WORTH_A_NOTE:
        notes.append(
            "The profiler's own work is a large part of its runs: the times of operators are cut"
            " to what a run takes without it."
        )
    return tuple(notes)
