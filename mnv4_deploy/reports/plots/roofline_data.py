"""What a roofline shows: a point a layer, the machine's ceilings, the layers worth a look."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

from mnv4_deploy.profiles.records.machine import PublishedMachine
from mnv4_deploy.profiles.records.profile import Layer, ModelProfile
from mnv4_deploy.reports.profile.kinds import FAMILIES, Family, family_of
from mnv4_deploy.reports.profile.rows import gmacs_per_s
from mnv4_deploy.text import significant

WORST = 5
_RUNTIMES = {"tflite": "xnnpack", "onnx": "onnxruntime"}
_TITLES = {"xnnpack": "XNNPACK", "onnxruntime": "onnxruntime"}
LIMIT_TITLES = {
    "compute": "arithmetic",
    "memory": "memory",
    "overhead": "overhead of an operator",
    "unknown": "not known",
}


@dataclass(frozen=True)
class Point:
    """A layer on the plane: MACs/byte, GMAC/s and its share of the layers' time (0 to 1).

    ``rank`` counts from 1 over the layers with most time to win; None for the others.
    """

    layer: Layer
    family: Family
    intensity: float
    gmacs_per_s: float
    share: float
    rank: int | None


@dataclass(frozen=True)
class CeilingLine:
    """``value`` is GMAC/s of a peak, GB/s of a memory level."""

    kind: Literal["peak", "independent", "memory"]
    label: str
    value: float

    def at(self, intensity: float) -> float:
        """GMAC/s that this ceiling allows at ``intensity`` MACs/byte."""
        return self.value * intensity if self.kind == "memory" else self.value


@dataclass(frozen=True)
class FamilyTime:
    family: Family
    latency_us: float
    layers: int


def points_of(profile: ModelProfile) -> tuple[Point, ...]:
    """The layers that have a place on logarithmic axes: with MACs, bytes and a time.

    The model as a whole is one point, where there are no times of operators.
    """
    total_us = sum(layer.latency_us for layer in profile.rows)
    placed = [
        (layer, layer.cost.operational_intensity, rate)
        for layer in profile.rows
        if layer.cost and layer.cost.operational_intensity > 0 and (rate := gmacs_per_s(layer))
    ]
    worst = sorted(placed, key=lambda item: -to_win_us(item[0]))[:WORST]
    ranks = {
        layer.index: rank
        for rank, (layer, _, _) in enumerate(worst, start=1)
        if to_win_us(layer) > 0
    }
    return tuple(
        Point(
            layer=layer,
            family=family_of(profile, layer),
            intensity=intensity,
            gmacs_per_s=rate,
            share=layer.latency_us / total_us,
            rank=ranks.get(layer.index),
        )
        for layer, intensity, rate in placed
    )


def to_win_us(layer: Layer) -> float:
    """Time above the roof, or all of it where there is no roof to compare with."""
    return layer.bound.recoverable_us if layer.bound else layer.latency_us


def ceiling_lines(profile: ModelProfile) -> tuple[CeilingLine, ...]:
    """The ceilings of the number of threads used, for the types that layers compute in.

    Of a prediction the two that it is made with.
    """
    if profile.prediction:
        return _published_lines(profile.prediction)
    ceilings = profile.ceilings
    if ceilings is None:
        return ()
    source = _RUNTIMES[profile.measurement.format]
    computes = sorted({p.layer.compute for p in points_of(profile)})
    lines: list[CeilingLine] = []
    for compute in computes:
        if peak := ceilings.peak(source, compute):
            label = f"{compute} peak of {_TITLES[source]}"
            lines.append(_peak("peak", label, peak))
        if peak := ceilings.peak("independent", compute):
            lines.append(_peak("independent", f"{compute} peak, measured independently", peak))
    for level in ceilings.memory:
        gb_per_s = level.bytes_per_s / 1e9
        label = f"{level.name} {significant(gb_per_s)} GB/s"
        lines.append(CeilingLine("memory", label, gb_per_s))
    return tuple(line for line in lines if line.value > 0)


def _published_lines(machine: PublishedMachine) -> tuple[CeilingLine, ...]:
    rate, bandwidth = machine.macs_per_s, machine.matching_bytes_per_s
    if not rate or not bandwidth:
        return ()
    gb_per_s = bandwidth / 1e9
    return (
        _peak("peak", f"{machine.dtype} rate of {machine.title}", rate),
        CeilingLine("memory", f"memory {significant(gb_per_s)} GB/s", gb_per_s),
    )


def _peak(kind: Literal["peak", "independent"], label: str, macs_per_s: float) -> CeilingLine:
    gmacs = macs_per_s / 1e9
    return CeilingLine(kind, f"{label}: {significant(gmacs)} GMAC/s", gmacs)


def family_times(profile: ModelProfile) -> tuple[FamilyTime, ...]:
    """Time and number of layers by family, in the fixed order of families."""
    members: defaultdict[str, list[Layer]] = defaultdict(list)
    for layer in profile.rows:
        members[family_of(profile, layer).key].append(layer)
    return tuple(
        FamilyTime(family, sum(layer.latency_us for layer in found), len(found))
        for family in FAMILIES
        if (found := members[family.key])
    )


def limit_shares(profile: ModelProfile) -> dict[str, float]:
    """Percent of the layers' time by what limits it, the largest first; {} without ceilings.

    Shares that would be rounded to nothing are left out.
    """
    total_us = sum(layer.latency_us for layer in profile.layers)
    shares: defaultdict[str, float] = defaultdict(float)
    for layer in profile.layers:
        bound = layer.bound
        if bound is None:
            continue
        title = LIMIT_TITLES[bound.limit]
        # Of a prediction the level has no other name.
        if bound.limit == "memory" and bound.level not in ("", "memory"):
            title = f"memory ({bound.level})"
        shares[title] += 100 * layer.latency_us / total_us if total_us else 0.0
    return dict(sorted(((k, v) for k, v in shares.items() if v >= 0.5), key=lambda x: -x[1]))
