"""What onnxruntime's profiler adds to the time of each node, and taking it off again.

The profiler stops a node's clock only after it has written down type and shape of every tensor
that goes in and out (``sequential_executor.cc``), so that a few microseconds of its own count as
the node's: a model of many small nodes then seems to take a quarter longer than it does. That
part cannot be measured by itself, but its sum can: the nodes' times add up to more than a run
without profiler takes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import median

from mnv4_deploy.profiles.records.timing import OpTiming
from mnv4_deploy.profiles.runtimes.ort.profile_file import NodeEvent

# A node costs the profiler as much as this many tensors, and each tensor as much as one: nodes
# that only rename a tensor take 3 us with two tensors and 4 us with three, additions of a few
# thousand bytes 10 us with nine.
_NODE_IN_TENSORS = 2.5
# The profiler's work inside a node's clock is at most this many times its work between two
# nodes, which shows in the profile. A larger excess has another cause and stays in the times.
_MAX_SHARE_OF_GAP = 2.0
_BISECTIONS = 50
# Where less than this share of the times of nodes in a loop is left, they are a matter of chance:
# an error of a tenth in the profiler's cost is then two fifths of what is left.
_LEAST_LEFT = 0.2


def profiler_cost_us(runs: Sequence[tuple[NodeEvent, ...]], plain_us: Sequence[float]) -> float:
    """What the profiler adds to a node for each of its units; 0 for lack of evidence.

    A node's units are its tensors and a constant. The cost is the one value that, taken off
    every node (whose time does not get negative), takes off what the nodes together take longer
    than ``plain_us``, the wall times without profiler. All are the fastest of the runs: other
    programs, and the profiler's own unrest, only ever make one longer.
    """
    gaps_us = [gap for gap in map(_gap_us, runs) if gap is not None]
    if not gaps_us or not plain_us:
        return 0.0
    fastest = _fastest(runs)
    times_us = [event.elapsed_us for event in fastest]
    excess_us = sum(times_us) - min(plain_us)
    units = [units_of(event) for event in fastest]
    executions = sum(event.runs for event in fastest)
    mean_units = sum(_NODE_IN_TENSORS * e.runs + e.tensors for e in fastest) / executions
    low_us, high_us = 0.0, max(0.0, _MAX_SHARE_OF_GAP * median(gaps_us) / mean_units)
    for _ in range(_BISECTIONS):
        cost_us = (low_us + high_us) / 2
        taken_us = sum(min(t, cost_us * u) for t, u in zip(times_us, units, strict=True))
        low_us, high_us = (cost_us, high_us) if taken_us < excess_us else (low_us, cost_us)
    return low_us


def _fastest(runs: Sequence[tuple[NodeEvent, ...]]) -> list[NodeEvent]:
    """Each node as it was in its fastest run."""
    found: dict[tuple[str, str], NodeEvent] = {}
    for event in (event for run in runs for event in run):
        key = event.name, event.kind
        if key not in found or event.elapsed_us < found[key].elapsed_us:
            found[key] = event
    return list(found.values())


def units_of(event: NodeEvent) -> float:
    """Of a node that holds others, with what the profiler does between those."""
    runs, tensors = event.runs + event.held_runs, event.tensors + event.held_tensors
    return _NODE_IN_TENSORS * runs + tensors


def without_profiler(
    runs: Sequence[tuple[NodeEvent, ...]], cost_us: float
) -> list[tuple[NodeEvent, ...]]:
    """``runs`` with ``cost_us`` for each of its units taken off every node."""
    return [
        tuple(replace(e, elapsed_us=max(0.0, e.elapsed_us - cost_us * units_of(e))) for e in run)
        for run in runs
    ]


def call_around(
    nodes: Sequence[OpTiming], around_us: Sequence[float], plain_us: Sequence[float]
) -> tuple[OpTiming, ...]:
    """What a call of the session takes beside ``nodes``: values bound, memory planned, results
    handed over.

    ``around_us`` are the times before the first node and after the last, run by run. The profiler
    works there too, so that they are cut to what the least of ``plain_us`` leaves over.
    """
    if not nodes or not plain_us:
        return ()
    left_us = max(0.0, min(plain_us) - sum(min(node.samples_us) for node in nodes))
    least_us = min(around_us)
    part = min(1.0, left_us / least_us) if least_us else 0.0
    samples_us = tuple(part * us for us in around_us)
    return (OpTiming("InferenceSession.run", "runtime", samples_us),)


def _gap_us(run: Sequence[NodeEvent]) -> float | None:
    """Median time between the end of a node and the start of the next; None for a single one."""
    gaps_us = [event.gap_us for event in run if event.gap_us is not None]
    return median(gaps_us) if gaps_us else None


def with_held_as_one(
    runs: Sequence[tuple[NodeEvent, ...]], before: Sequence[tuple[NodeEvent, ...]]
) -> list[tuple[NodeEvent, ...]]:
    """``runs``, which are ``before`` without the profiler's cost, with the nodes that are in
    another as part of it where hardly anything of their times is left.

    A loop of small nodes takes ten times as long with the profiler: what each of them takes then
    cannot be told, and what all of them take together can.
    """
    left, had = ({e.name: e.elapsed_us for e in _fastest(each)} for each in (runs, before))
    inside = {event.name: event.holder for run in runs for event in run if event.holder}

    def holders(name: str) -> Iterator[str]:
        while name := inside.get(name, ""):
            yield name

    sums: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for name in had:
        for holder in (name, *holders(name)):
            sums[holder][0] += left[name]
            sums[holder][1] += had[name]
    lost = {name for name in inside.values() if sums[name][0] < _LEAST_LEFT * sums[name][1]}
    # The outermost of several, one in another.
    owner = {name: [h for h in holders(name) if h in lost][-1:] for name in had}
    return [
        _as_one(run, {name: found[0] for name, found in owner.items() if found}) for run in runs
    ]


def _as_one(run: Sequence[NodeEvent], owner: Mapping[str, str]) -> tuple[NodeEvent, ...]:
    together: defaultdict[str, float] = defaultdict(float)
    for event in run:
        together[owner.get(event.name, event.name)] += event.elapsed_us
    return tuple(
        replace(event, elapsed_us=together[event.name]) for event in run if event.name not in owner
    )
