"""Several measurements of one file as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from mnv4_deploy.errors import ToolchainError
from mnv4_deploy.profiles.records.profile import Conditions, TimedFile


def joined(parts: Sequence[TimedFile]) -> TimedFile:
    """The ``parts`` of one file, at least one, as one measurement.

    Raises ToolchainError where the runtime reported other operators in another part.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    if len({_operators(part) for part in parts}) > 1:
        raise ToolchainError(
            f"The runtime reported other operators of {first.profile.path} in another run: "
            "use a published build of it."
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
        cpu_rounds_us=tuple(chain.from_iterable(part.cpu_rounds_us for part in parts)),
        conditions=_conditions([part.conditions for part in parts]),
        notes=tuple(dict.fromkeys(chain.from_iterable(part.notes for part in parts))),
    )


def _operators(part: TimedFile) -> tuple[tuple[object, ...], ...]:
    return tuple(
        (op.tag, op.backend, op.name, op.partition, op.op_index) for op in part.profile.ops
    )


def _conditions(parts: Sequence[Conditions]) -> Conditions:
    """The worst of all parts."""
    return Conditions(
        spin_us=tuple(chain.from_iterable(part.spin_us for part in parts)),
        steal_percent=_worst([part.steal_percent for part in parts]),
        other_load_percent=_worst([part.other_load_percent for part in parts]),
    )


def _worst(percents: Sequence[float | None]) -> float | None:
    return max((percent for percent in percents if percent is not None), default=None)
