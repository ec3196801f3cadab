"""Costs and times of the layers that the join found: samples summed, one cost for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath

from mnv4_deploy.profiles.costs.group import group_costs
from mnv4_deploy.profiles.inspection.inspect_tflite import compute_of
from mnv4_deploy.profiles.records.graph import OpCost
from mnv4_deploy.profiles.records.profile import Layer, Measurement, Statistic
from mnv4_deploy.profiles.records.timing import OpTiming


def layers_of(measurement: Measurement, statistic: Statistic = "min") -> tuple[Layer, ...]:
    """The layers of ``measurement`` with their costs and times, in the same order."""
    costs = group_costs(measurement.graph, [layer.op_indices for layer in measurement.layers])
    return tuple(
        _layer(measurement, layer, cost, statistic)
        for layer, cost in zip(measurement.layers, costs, strict=True)
    )


def within_wall(layers: Sequence[Layer], wall_us: float) -> tuple[tuple[Layer, ...], float]:
    """``layers`` with times that add up to no more than the model takes, and their part of what
    was measured (1 where nothing was to be done).

    A profiler makes operators slower, never faster: no operator takes longer than the model that
    it is in, nor do all of them together.
    """
    together_us = sum(layer.latency_us for layer in layers)
    if together_us <= wall_us:
        return tuple(layers), 1.0
    part = wall_us / together_us
    return tuple(
        replace(layer, samples_us=tuple(part * us for us in layer.samples_us)) for layer in layers
    ), part


def unfused(measurement: Measurement) -> tuple[Layer, ...]:
    """Each operator of the file as a layer, without times and as if nothing were fused."""
    graph = measurement.graph
    costs = group_costs(graph, [(op.index,) for op in graph.ops])
    return tuple(
        Layer(
            op_type=op.kind,
            name=op.name,
            module="",
            compute=compute_of(graph, op),
            backend="builtin" if op.index in measurement.refusals else "xnnpack",
            partition=None,
            op_indices=(op.index,),
            timing_indices=(),
            index=op.index,
            file_op_types=(op.kind,),
            cost=cost,
        )
        for op, cost in zip(graph.ops, costs, strict=True)
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
        op_type="model",
        name=PurePath(measurement.path).name,
        module="",
        compute=compute_of(graph, main) if main else "unknown",
        backend="runtime",
        partition=None,
        op_indices=tuple(op.index for op in graph.ops),
        timing_indices=(),
        file_op_types=tuple(op.kind for op in graph.ops),
        output_shape=targets[0].shape if targets else (),
        samples_us=tuple(us for burst in measurement.rounds_us for us in burst),
        cost=sum((cost for cost, _ in known), OpCost()),
        statistic=statistic,
    )


def _layer(
    measurement: Measurement, layer: Layer, cost: OpCost | None, statistic: Statistic
) -> Layer:
    graph = measurement.graph
    timings = [measurement.profile.ops[i] for i in layer.timing_indices]
    ops = [graph.ops[i] for i in layer.op_indices]
    targets = graph.targets(ops[-1]) if ops else ()
    refusals = (measurement.refusals.get(i) for i in layer.op_indices)
    return replace(
        layer,
        file_op_types=tuple(op.kind for op in ops),
        kernels=tuple(timing.tag for timing in timings),
        output_shape=targets[0].shape if targets else (),
        samples_us=_summed(timings),
        cost=cost if ops else None,
        refusal=next((reason for reason in refusals if reason), None),
        statistic=statistic,
    )


def _summed(timings: Sequence[OpTiming]) -> tuple[float, ...]:
    """Time of all operators together, run by run."""
    return tuple(sum(run) for run in zip(*(t.samples_us for t in timings), strict=True))
