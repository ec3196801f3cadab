"""Several measurements of one file as one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from mnv4_deploy.errors import ToolchainError
from mnv4_deploy.profiles.join.absorb import base_name
from mnv4_deploy.profiles.records.profile import Conditions, TimedFile
from mnv4_deploy.profiles.records.timing import OpTiming


def joined(parts: Sequence[TimedFile]) -> TimedFile:
    """The ``parts`` of one file, at least one, as one measurement.

    Raises ToolchainError where the runtime reported other operators in another part.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    alike = [_in_order_of(first, part) for part in parts]
    ops = tuple(
        replace(same[0], samples_us=tuple(chain.from_iterable(op.samples_us for op in same)))
        for same in zip(*alike, strict=True)
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


def _in_order_of(first: TimedFile, part: TimedFile) -> list[OpTiming]:
    """The operators of ``part`` in the order that ``first`` has them in.

    onnxruntime numbers what it adds anew in every process, and runs branches that do not wait for
    each other in any order.
    """
    left: defaultdict[tuple[object, ...], list[OpTiming]] = defaultdict(list)
    for op in part.profile.ops:
        left[_kind(op)].append(op)
    found = []
    for op in first.profile.ops:
        alike = left[_kind(op)]
        if not alike:
            break
        found.append(alike.pop(next((i for i, o in enumerate(alike) if o.name == op.name), 0)))
    if len(found) != len(first.profile.ops) or any(left.values()):
        raise ToolchainError(
            f"The runtime reported other operators of {first.profile.path} in another run: "
            "use a published build of it."
        )
    return found


def _kind(op: OpTiming) -> tuple[object, ...]:
    return op.tag, op.backend, base_name(op.name), op.partition, op.op_index


def _conditions(parts: Sequence[Conditions]) -> Conditions:
    """The worst of all parts."""
    return Conditions(
        spin_us=tuple(chain.from_iterable(part.spin_us for part in parts)),
        steal_percent=_worst([part.steal_percent for part in parts]),
        other_load_percent=_worst([part.other_load_percent for part in parts]),
    )


def _worst(percents: Sequence[float | None]) -> float | None:
    return max((percent for percent in percents if percent is not None), default=None)
