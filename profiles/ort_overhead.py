"""What onnxruntime's profiler adds to the time of each node, and taking it off again.

The profiler stops a node's clock only after it has written down the node's shapes and memory
figures, so that a few microseconds of its own count as the node's: a model of many small nodes
then seems to take a quarter longer than it does. That part cannot be measured by itself, but
its sum can: the nodes' times add up to more than a run without profiler takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import median

from mnv4_deploy.profiles.ort_profile import NodeEvent

# The profiler's work inside a node's clock is at most this many times its work between two
# nodes, which shows in the profile. A larger excess has another cause and stays in the times.
_MAX_SHARE_OF_GAP = 2.0


def profiler_cost_us(runs: Sequence[tuple[NodeEvent, ...]], plain_us: Sequence[float]) -> float:
    """What the profiler adds to each node, in us: the same for all, and 0 for lack of evidence.

    It is the one value that, taken off every node (whose time does not get negative), takes off
    what the nodes of a run take longer than ``plain_us``, the wall times without profiler. Both
    are lower quartiles: other programs that interrupt a run only ever make it longer.
    """
    if not runs or len(runs[0]) < 2 or not plain_us:
        return 0.0
    times_us = [
        median(events) for events in zip(*([e.elapsed_us for e in r] for r in runs), strict=True)
    ]
    excess_us = _quiet(sum(e.elapsed_us for e in run) for run in runs) - _quiet(plain_us)
    cost_us = 0.0
    # The smallest nodes are used up first; the larger ones share what is left of the excess.
    for position, time_us in enumerate(sorted(times_us)):
        if excess_us <= 0:
            break
        sharing = len(times_us) - position
        step_us = min(time_us - cost_us, excess_us / sharing)
        cost_us += step_us
        excess_us -= step_us * sharing
    return min(cost_us, _MAX_SHARE_OF_GAP * median(_gap_us(run) for run in runs))


def without_profiler(
    runs: Sequence[tuple[NodeEvent, ...]], cost_us: float
) -> list[tuple[NodeEvent, ...]]:
    """``runs`` with ``cost_us`` taken off every node."""
    return [
        tuple(replace(e, elapsed_us=max(0.0, e.elapsed_us - cost_us)) for e in run) for run in runs
    ]


def _quiet(samples: Iterable[float]) -> float:
    ordered = sorted(samples)
    return ordered[len(ordered) // 4]


def _gap_us(run: Sequence[NodeEvent]) -> float:
    """Median time between the end of a node and the start of the next."""
    return median(
        after.start_us - before.start_us - before.elapsed_us for before, after in pairwise(run)
    )
