"""From a measurement to the rows of a profile: samples summed, costs attached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath

from mnv4_deploy.profiles.costs.group import group_costs
from mnv4_deploy.profiles.inspection.inspect_tflite import compute_of
from mnv4_deploy.profiles.records.graph import OpCost
from mnv4_deploy.profiles.records.profile import JoinedLayer, Layer, Measurement, Statistic
from mnv4_deploy.profiles.records.timing import OpTiming


def layers_of(measurement: Measurement, statistic: Statistic = "min") -> tuple[Layer, ...]:
    """One layer for each joined layer, in the order of the file."""
    costs = group_costs(measurement.graph, [joined.op_indices for joined in measurement.layers])
    return tuple(
        replace(_layer(measurement, index, joined, cost), statistic=statistic)
        for index, (joined, cost) in enumerate(zip(measurement.layers, costs, strict=True))
    )


def whole_of(measurement: Measurement, statistic: Statistic = "min") -> Layer:
    """The model as one layer with the times of its runs.

    Its cost is the sum over the operators of the file, as if nothing were fused, without those
    of unknown kind; its arithmetic is that of the operator with most MACs.
    """
    graph = measurement.graph
    costs = group_costs(graph, [(op.index,) for op in graph.ops])
    known = [(cost, op) for cost, op in zip(costs, graph.ops, strict=True) if cost is not None]
    _, main = max(known, key=lambda pair: pair[0].macs, default=(None, None))
    targets = [graph.tensors[i] for i in graph.outputs[:1]]
    return Layer(
        index=0,
        kind="model",
        name=PurePath(measurement.path).name,
        module="",
        compute=compute_of(graph, main) if main else "unknown",
        where="runtime",
        partition=None,
        file_kinds=tuple(op.kind for op in graph.ops),
        kernels=(),
        output_shape=targets[0].shape if targets else (),
        samples_us=tuple(us for burst in measurement.rounds_us for us in burst),
        cost=sum((cost for cost, _ in known), OpCost()),
        statistic=statistic,
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
