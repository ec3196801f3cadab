"""Several files in turns on a device where each run is a process of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain

from mnv4_deploy.errors import ToolchainError
from mnv4_deploy.profiles.records.profile import Conditions, MeasureRequest, TimedFile

# Enough to spread slow drifts of the clock over all files, few enough that loading and warming
# up do not take longer than measuring.
_TURNS = 3


def turns(requests: Sequence[MeasureRequest]) -> Iterator[tuple[int, MeasureRequest]]:
    """Which request to run next, and the part of it to run: one alone at once, several in turns.

    The parts of a request together have at least its runs and its seconds.
    """
    count = _TURNS if len(requests) > 1 else 1
    for _ in range(count):
        for index, request in enumerate(requests):
            yield (
                index,
                replace(
                    request,
                    runs=math.ceil(request.runs / count),
                    max_seconds=request.max_seconds / count,
                ),
            )


def joined(parts: Sequence[TimedFile]) -> TimedFile:
    """The turns of one file as one measurement.

    Raises ToolchainError where the tool reported other operators in another turn.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    if len({_operators(part) for part in parts}) > 1:
        raise ToolchainError(
            f"benchmark_model reported other operators of {first.profile.path} in another run: "
            "use a published build of the tool."
        )
    ops = tuple(
        replace(same[0], samples_us=tuple(chain.from_iterable(op.samples_us for op in same)))
        for same in zip(*(part.profile.ops for part in parts), strict=True)
    )
    return replace(
        first,
        profile=replace(first.profile, ops=ops),
        rounds_us=tuple(chain.from_iterable(part.rounds_us for part in parts)),
        profiled_rounds_us=tuple(chain.from_iterable(part.profiled_rounds_us for part in parts)),
        conditions=_conditions([part.conditions for part in parts]),
        notes=tuple(dict.fromkeys(chain.from_iterable(part.notes for part in parts))),
    )


def _operators(part: TimedFile) -> tuple[tuple[object, ...], ...]:
    return tuple(
        (op.tag, op.backend, op.name, op.partition, op.op_index) for op in part.profile.ops
    )


def _conditions(parts: Sequence[Conditions]) -> Conditions:
    """The worst of all turns."""
    return Conditions(
        spin_us=tuple(chain.from_iterable(part.spin_us for part in parts)),
        steal_percent=_worst([part.steal_percent for part in parts]),
        other_load_percent=_worst([part.other_load_percent for part in parts]),
    )


def _worst(percents: Sequence[float | None]) -> float | None:
    return max((percent for percent in percents if percent is not None), default=None)
