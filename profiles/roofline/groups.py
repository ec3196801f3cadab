"""Layers added up: by module, by block of modules, by operator."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from mnv4_deploy.profiles.join.modules import block_of
from mnv4_deploy.profiles.records.graph import OpCost
from mnv4_deploy.profiles.records.profile import Layer, ModelProfile

GroupBy = Literal["layer", "module", "block", "op"]
NO_MODULE = "(no module)"


@dataclass(frozen=True)
class Group:
    """Sums over some layers. ``roof_us`` is None where no layer has a known roof, and of a
    prediction, which is its roof.
    """

    name: str
    layers: tuple[int, ...]
    latency_us: float
    cost: OpCost
    roof_us: float | None
    recoverable_us: float

    @property
    def percent_of_roof(self) -> float | None:
        if self.roof_us is None or not self.latency_us:
            return None
        return 100 * self.roof_us / self.latency_us


_NAMES: Mapping[GroupBy, Callable[[Layer], str]] = {
    "layer": lambda layer: str(layer.index),
    "module": lambda layer: layer.module or NO_MODULE,
    "block": lambda layer: block_of(layer.module) or NO_MODULE,
    "op": lambda layer: f"{layer.op_type} {layer.compute}",
}


def group_layers(profile: ModelProfile, by: GroupBy) -> tuple[Group, ...]:
    """The layers of ``profile`` added up, in order of first appearance.

    Layers without a known roof count as being at it, so that a group is never blamed for them.
    """
    members: defaultdict[str, list[Layer]] = defaultdict(list)
    for layer in profile.layers:
        members[_NAMES[by](layer)].append(layer)
    groups = tuple(_group(name, layers) for name, layers in members.items())
    if profile.prediction:
        return tuple(replace(group, roof_us=None) for group in groups)
    return groups


def _group(name: str, layers: Sequence[Layer]) -> Group:
    roofs_us = [layer.bound.roof_us if layer.bound else None for layer in layers]
    roof_us = None
    if any(roof is not None for roof in roofs_us):
        roof_us = sum(
            layer.latency_us if roof is None else roof
            for layer, roof in zip(layers, roofs_us, strict=True)
        )
    return Group(
        name=name,
        layers=tuple(layer.index for layer in layers),
        latency_us=sum(layer.latency_us for layer in layers),
        cost=sum((layer.cost for layer in layers if layer.cost), OpCost()),
        roof_us=roof_us,
        recoverable_us=sum(layer.bound.recoverable_us for layer in layers if layer.bound),
    )
