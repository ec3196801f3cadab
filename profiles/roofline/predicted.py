"""A prediction as a profile: with times, findings and groups as a measured one has them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.profiles.machine.predict import predict
from mnv4_deploy.profiles.records.graph import OpCost
from mnv4_deploy.profiles.records.machine import PublishedMachine
from mnv4_deploy.profiles.records.profile import (
    Bound,
    Conditions,
    Finding,
    Layer,
    Measurement,
    ModelProfile,
    Trust,
)
from mnv4_deploy.profiles.roofline.layers import layers_of, unfused
from mnv4_deploy.profiles.roofline.prediction import other_types, prediction_notes

FINDINGS = 3
_MICROSECONDS = 1e6
_MIN_SHARE = 0.005


def predicted_profile(measurement: Measurement, machine: PublishedMachine) -> ModelProfile:
    """What ``measurement``'s layers would take on ``machine``; none of its times is used.

    A layer takes the longer of its MACs and its bytes; ``recoverable_us`` is what its bytes cost
    beyond its MACs. Raises UnsupportedError for a machine that gives no seconds.
    """
    rate = needs_times(machine)
    found = layers_of(measurement) or unfused(measurement)
    times = iter(predict([x.cost for x in found if x.cost], machine).layers)
    layers = tuple(
        _layer(i, layer, layer.cost, next(times) / rate * _MICROSECONDS, rate)
        if layer.cost
        else replace(layer, index=i, samples_us=(), timing_indices=())
        for i, layer in enumerate(found)
    )
    total_us = sum(layer.latency_us for layer in layers)
    return ModelProfile(
        measurement=replace(
            measurement,
            runtime=f"predicted for {machine.title}",
            profile=replace(measurement.profile, ops=()),
            rounds_us=((total_us,),),
            profiled_rounds_us=((total_us,),),
            conditions=Conditions(spin_us=()),
            notes=measurement.notes + prediction_notes(found, machine),
        ),
        layers=layers,
        findings=_findings(layers, total_us, machine),
        trust=Trust(
            wall_us=total_us,
            profiled_wall_us=math.nan,
            overhead_percent=math.nan,
            layers_us=total_us,
            unattributed_us=0.0,
            sum_percent=100.0,
            spread_percent=math.nan,
            runs=0,
            warnings=(_sentence(machine, total_us, other_types(found, machine)),),
        ),
        statistic="min",
        machine=None,
        unknown_op_types=tuple(
            sorted({x.op_type for x in layers if x.cost is None and x.file_op_types})
        ),
        prediction=machine,
    )


def predicted_range_us(profile: ModelProfile) -> tuple[float, float] | None:
    """What such predictions have been right within; None where that is not known, or for times
    that were measured.
    """
    machine = profile.prediction
    if machine is None or machine.took_of_predicted is None:
        return None
    if other_types(profile.layers, machine):
        return None
    low, high = machine.took_of_predicted
    return low * profile.trust.wall_us, high * profile.trust.wall_us


def needs_times(machine: PublishedMachine) -> float:
    """MAC/s of ``machine``. Raises UnsupportedError where nothing published gives them."""
    if machine.macs_per_s is None:
        raise UnsupportedError(
            f"Of {machine.title} only a ratio is published, which gives no times: leave out --out"
            " and --csv, or give --machine pixel-6-cpu."
        )
    return machine.macs_per_s


def _sentence(machine: PublishedMachine, total_us: float, other: Sequence[str]) -> str:
    """That it is a prediction, from what, and how far such ones have been right."""
    if machine.took_of_predicted is None or other:
        what = f" for {', '.join(other)}" if other else ""
        return (
            f"Predicted for {machine.title}, not measured: how far that is right{what} was not"
            " checked."
        )
    low, high = machine.took_of_predicted
    return (
        f"Predicted, not measured: {len(machine.published_ms)} networks of the MobileNetV4 paper"
        f" took {low:.2f} to {high:.2f} times what is predicted so, here"
        f" {low * total_us / 1e3:.2f} to {high * total_us / 1e3:.2f} ms. Of a single layer nothing"
        " is known so."
    )


def _layer(index: int, layer: Layer, cost: OpCost, us: float, rate: float) -> Layer:
    compute_us = cost.macs / rate * _MICROSECONDS
    memory = us > compute_us
    return replace(
        layer,
        index=index,
        samples_us=(us,),
        timing_indices=(),
        bound=Bound(
            limit="memory" if memory else "compute",
            level="memory" if memory else "",
            compute_us=compute_us,
            memory_us=us if memory else None,
            overhead_us=0.0,
            roof_us=us,
            percent_of_roof=None,
            recoverable_us=max(0.0, us - compute_us),
        ),
    )


def _findings(
    layers: Sequence[Layer], total_us: float, machine: PublishedMachine
) -> tuple[Finding, ...]:
    found = sorted(_candidates(layers, machine), key=lambda finding: -finding.recoverable_us)
    return tuple(x for x in found if x.recoverable_us >= _MIN_SHARE * total_us)[:FINDINGS]


def _candidates(layers: Sequence[Layer], machine: PublishedMachine) -> Iterator[Finding]:
    waiting: defaultdict[tuple[str, bool], list[Layer]] = defaultdict(list)
    for layer in layers:
        if layer.bound and layer.bound.limit == "memory" and layer.cost:
            waiting[layer.op_type, layer.cost.macs > 0].append(layer)
    for (op_type, multiplies), group in waiting.items():
        time_us = sum(layer.latency_us for layer in group)
        worst = max(group, key=lambda layer: layer.bound.recoverable_us if layer.bound else 0.0)
        name = worst.module or worst.name
        yield Finding(
            kind="memory",
            title=f"{len(group)} {op_type} wait for memory on {machine.title} ({_ms(time_us)})",
            advice=f"Worst: {name}. "
            + (
                "Its bytes take longer than its MACs: smaller activations (an earlier stride,"
                " fewer channels) or fewer weights win time, fewer MACs alone do not."
                if multiplies
                else "It multiplies nothing: fuse it into a neighbour, or do without it."
            ),
            recoverable_us=sum(x.bound.recoverable_us for x in group if x.bound),
            layers=tuple(layer.index for layer in group),
        )
    computing = [x for x in layers if x.bound and x.bound.limit == "compute" and x.latency_us]
    if computing:
        largest = max(computing, key=lambda layer: layer.latency_us)
        yield Finding(
            kind="compute",
            title=f"{largest.module or largest.name} ({largest.op_type}) has most MACs of those"
            f" that its arithmetic bounds ({_ms(largest.latency_us)})",
            advice="Only fewer MACs win time there: fewer channels, a smaller kernel, or an"
            " earlier stride.",
            recoverable_us=largest.latency_us,
            layers=(largest.index,),
        )


def _ms(microseconds: float) -> str:
    return f"{microseconds / 1000:.2f} ms"
