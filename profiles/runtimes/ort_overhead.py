"""What onnxruntime's profiler adds to the time of each node, and taking it off again.

The profiler stops a node's clock only after it has written down type and shape of every tensor
that goes in and out (``sequential_executor.cc``), so that a few microseconds of its own count as
the node's: a model of many small nodes then seems to take a quarter longer than it does. That
part cannot be measured by itself, but its sum can: the nodes' times add up to more than a run
without profiler takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import fmean, median

from mnv4_deploy.profiles.runtimes.ort_profile import NodeEvent

# A node costs the profiler as much as this many tensors, and each tensor as much as one: nodes
# that only rename a tensor take 3 us with two tensors and 4 us with three, additions of a few
# thousand bytes 10 us with nine.
_NODE_IN_TENSORS = 2.5
# The profiler's work inside a node's clock is at most this many times its work between two
# nodes, which shows in the profile. A larger excess has another cause and stays in the times.
_MAX_SHARE_OF_GAP = 2.0
_BISECTIONS = 50


def profiler_cost_us(runs: Sequence[tuple[NodeEvent, ...]], plain_us: Sequence[float]) -> float:
    """What the profiler adds to a node for each of its units; 0 for lack of evidence.

    A node's units are its tensors and a constant. The cost is the one value that, taken off
    every node (whose time does not get negative), takes off what the nodes together take longer
    than ``plain_us``, the wall times without profiler. All are the fastest of the runs: other
    programs, and the profiler's own unrest, only ever make one longer.
    """
    if not runs or len(runs[0]) < 2 or not plain_us:
        return 0.0
    times_us = [min(t) for t in zip(*([e.elapsed_us for e in r] for r in runs), strict=True)]
    excess_us = sum(times_us) - min(plain_us)
    units = [units_of(event) for event in runs[0]]
    gap_us = median(_gap_us(run) for run in runs)
    low_us, high_us = 0.0, max(0.0, _MAX_SHARE_OF_GAP * gap_us / fmean(units))
    for _ in range(_BISECTIONS):
        cost_us = (low_us + high_us) / 2
        taken_us = sum(min(t, cost_us * u) for t, u in zip(times_us, units, strict=True))
        low_us, high_us = (cost_us, high_us) if taken_us < excess_us else (low_us, cost_us)
    return low_us


def units_of(event: NodeEvent) -> float:
    return _NODE_IN_TENSORS + event.tensors


def without_profiler(
    runs: Sequence[tuple[NodeEvent, ...]], cost_us: float
) -> list[tuple[NodeEvent, ...]]:
    """``runs`` with ``cost_us`` for each of its units taken off every node."""
    return [
        tuple(replace(e, elapsed_us=max(0.0, e.elapsed_us - cost_us * units_of(e))) for e in run)
        for run in runs
    ]


def _gap_us(run: Sequence[NodeEvent]) -> float:
    """Median time between the end of a node and the start of the next."""
    return median(
        after.start_us - before.start_us - before.elapsed_us for before, after in pairwise(run)
    )
