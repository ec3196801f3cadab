"""Frozen records of what a machine can do: measured here, or published. No heavy imports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class MemoryLevel:
    """``capacity_bytes`` is what one thread group can use of it; None for DRAM."""

    name: str
    capacity_bytes: int | None
    bytes_per_s: float


@dataclass(frozen=True)
class Ceilings:
    """What the machine can do at most with ``threads`` threads.

    ``peak_macs_per_s``: [source][compute], source "xnnpack" or "onnxruntime" (the runtime's own
    fastest kernels) or "independent" (no runtime involved), compute "float32", "int8", … .
    ``op_overhead_us``: [runtime], what an operator costs that has nothing to do.
    ``memory`` from the nearest level (L1) to DRAM, reading.
    """

    threads: int
    peak_macs_per_s: Mapping[str, Mapping[str, float]]
    memory: tuple[MemoryLevel, ...]
    op_overhead_us: Mapping[str, float]
    spin_us: float
    clock_ghz: float | None = None

    def peak(self, source: str, compute: str) -> float | None:
        """MAC/s of ``source`` for ``compute``; None where it was not measured."""
        return self.peak_macs_per_s.get(source, {}).get(compute)


@dataclass(frozen=True)
class Machine:
    """The machine and its ceilings, one for each number of threads measured.

    ``limits_macs_per_s``: what instruction set and clock allow one core, by compute type.
    """

    cpu: str
    cores: int
    isa: tuple[str, ...]
    caches: Mapping[str, int]
    measured_on: str
    method: str
    versions: Mapping[str, str]
    ceilings: tuple[Ceilings, ...]
    limits_macs_per_s: Mapping[str, float] = field(default_factory=dict)

    def with_threads(self, threads: int) -> Ceilings | None:
        return next((c for c in self.ceilings if c.threads == threads), None)


@dataclass(frozen=True)
class PublishedMachine:
    """A machine of machines.toml, for prediction only.

    ``ridge_point`` is peak MACs over peak bandwidth (MACs/byte), the paper's Table 16. Peak and
    bandwidth are None where only their ratio was published: predictions are then relative, unless
    ``published_ms`` has latencies of networks that were measured there. ``achieved_macs_per_s`` is
    the rate at which their ModelTime is right in the geometric mean; predicted from the rate of
    the others, each of them took between ``took_of_predicted`` times what was predicted.
    """

    name: str
    title: str
    dtype: str
    ridge_point: float
    source: str
    peak_macs_per_s: float | None = None
    bytes_per_s: float | None = None
    published_ms: Mapping[str, float] = field(default_factory=dict)
    achieved_macs_per_s: float | None = None
    took_of_predicted: tuple[float, float] | None = None

    @property
    def macs_per_s(self) -> float | None:
        """The rate that turns ModelTime into seconds; None where there is none."""
        return self.achieved_macs_per_s or self.peak_macs_per_s

    @property
    def matching_bytes_per_s(self) -> float | None:
        """The bandwidth that :attr:`macs_per_s` meets at the ridge point, achieved as it is."""
        return self.macs_per_s / self.ridge_point if self.macs_per_s else None
