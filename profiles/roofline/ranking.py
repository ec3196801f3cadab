"""Which layers cost most on which device: one file's profiles from several, joined by module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mnv4_deploy.profiles.records.profile import Layer, ModelProfile
from mnv4_deploy.profiles.roofline.groups import NO_MODULE


@dataclass(frozen=True)
class ModuleOnDevice:
    """``share_percent`` of the sum of all layers there, ``rank`` 1 for the slowest module.

    ``bound`` is that of the module's slowest layer: "compute", "memory" with its level,
    "overhead", or "" where no ceilings are known.
    """

    latency_us: float
    share_percent: float
    rank: int
    bound: str


@dataclass(frozen=True)
class RankedModule:
    """One module on every device, in their order; None where it did not run there."""

    module: str
    op_types: tuple[str, ...]
    places: tuple[ModuleOnDevice | None, ...]

    @property
    def mean_share_percent(self) -> float:
        return sum(p.share_percent for p in self.places if p) / len(self.places)


def rank_modules(profiles: Sequence[ModelProfile]) -> tuple[RankedModule, ...]:
    """All modules that took time anywhere, the costliest (by mean share) first.

    Runtimes fuse differently from processor to processor, so layers cannot be matched one by
    one; modules can, and layers of no module count as one.
    """
    tables = [_modules(profile) for profile in profiles]
    names = dict.fromkeys(name for table in tables for name in table)
    ranked = (
        RankedModule(
            module=name,
            op_types=tuple(dict.fromkeys(k for table in tables for k in _op_types(table, name))),
            places=tuple(table[name][0] if name in table else None for table in tables),
        )
        for name in names
    )
    return tuple(sorted(ranked, key=lambda module: -module.mean_share_percent))


_Table = Mapping[str, tuple[ModuleOnDevice, tuple[str, ...]]]


def _op_types(table: _Table, name: str) -> tuple[str, ...]:
    return table[name][1] if name in table else ()


def _modules(profile: ModelProfile) -> _Table:
    layers = [layer for layer in profile.layers if layer.samples_us]
    total_us = sum(layer.latency_us for layer in layers)
    members: dict[str, list[Layer]] = {}
    for layer in layers:
        members.setdefault(layer.module or NO_MODULE, []).append(layer)
    times_us = {m: sum(layer.latency_us for layer in own) for m, own in members.items()}
    order = sorted(times_us, key=lambda module: -times_us[module])
    return {
        module: (
            ModuleOnDevice(
                latency_us=times_us[module],
                share_percent=100 * times_us[module] / total_us if total_us else 0.0,
                rank=rank,
                bound=_bound(members[module]),
            ),
            tuple(dict.fromkeys(layer.op_type for layer in members[module])),
        )
        for rank, module in enumerate(order, 1)
    }


def _bound(layers: Sequence[Layer]) -> str:
    bound = max(layers, key=lambda layer: layer.latency_us).bound
    if bound is None or bound.limit == "unknown":
        return ""
    return bound.level if bound.limit == "memory" else bound.limit


def rank_correlation(modules: Sequence[RankedModule], a: int, b: int) -> float | None:
    """Spearman's rho between the latencies of two devices over the modules that ran on both.

    1 where both rank them alike; None for fewer than two modules or all of one latency. Equal
    latencies share their mean rank (Spearman 1904).
    """
    both = [
        (x.latency_us, y.latency_us) for m in modules if (x := m.places[a]) and (y := m.places[b])
    ]
    if len(both) < 2:
        return None
    first, second = (_mean_ranks(list(column)) for column in zip(*both, strict=True))
    mean = (len(both) + 1) / 2
    covariance = sum((x - mean) * (y - mean) for x, y in zip(first, second, strict=True))
    spread = 1.0
    for ranks in (first, second):
        spread *= sum((rank - mean) ** 2 for rank in ranks)
    return covariance / spread**0.5 if spread else None


def _mean_ranks(values: Sequence[float]) -> list[float]:
    order = sorted(values)
    return [
        (order.index(value) + 1 + len(order) - order[::-1].index(value)) / 2 for value in values
    ]
