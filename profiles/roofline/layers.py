"""From a measurement to the rows of a profile: samples summed, costs attached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mnv4_deploy.graph_records import OpCost
from mnv4_deploy.profile_records import JoinedLayer, Layer, Measurement, Statistic
from mnv4_deploy.profiles.costs.group import group_costs
from mnv4_deploy.records import OpTiming


def layers_of(measurement: Measurement, statistic: Statistic = "min") -> tuple[Layer, ...]:
    """One layer for each joined layer, in the order of the file."""
    costs = group_costs(measurement.graph, [joined.op_indices for joined in measurement.layers])
    return tuple(
        replace(_layer(measurement, index, joined, cost), statistic=statistic)
        for index, (joined, cost) in enumerate(zip(measurement.layers, costs, strict=True))
    )


def _layer(
    measurement: Measurement, index: int, joined: JoinedLayer, cost: OpCost | None
) -> Layer:
    graph = measurement.graph
    timings = [measurement.profile.ops[i] for i in joined.timing_indices]
    ops = [graph.ops[i] for i in joined.op_indices]
    targets = graph.targets(ops[-1]) if ops else ()
    refusals = (measurement.refusals.get(i) for i in joined.op_indices)
    return Layer(
        index=index,
        kind=joined.kind,
        name=joined.name,
        module=joined.module,
        compute=joined.compute,
        where=joined.where,
        partition=joined.partition,
        file_kinds=tuple(op.kind for op in ops),
        kernels=tuple(timing.tag for timing in timings),
        output_shape=targets[0].shape if targets else (),
        samples_us=_summed(timings),
        cost=cost if ops else None,
        refusal=next((reason for reason in refusals if reason), None),
    )


def _summed(timings: Sequence[OpTiming]) -> tuple[float, ...]:
    """Time of all operators together, run by run."""
    return tuple(sum(run) for run in zip(*(t.samples_us for t in timings), strict=True))
