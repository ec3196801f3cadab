"""What a layer could reach on this machine, and what keeps it from it.

The roofline model (Williams, Waterman, Patterson 2009) with one diagonal for each memory level:
a layer needs at least ``MACs / peak`` to compute and at least the time to move its bytes. Both
are lower bounds, so that no correct measurement lies above its roof.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mnv4_deploy.profiles.machine.kernels.tile_ir import NAME as TILE
from mnv4_deploy.profiles.records.machine import Ceilings, MemoryLevel
from mnv4_deploy.profiles.records.profile import Bound, Layer, LimitedBy

_MICROSECONDS = 1e6
# Runtimes report whole microseconds; below a few of them a share of the roof is rounding.
RESOLUTION_US = 5.0
# Two measurements of one limit agree within this.
_SAME_LIMIT = 1.1
_SOURCES = {"xnnpack": "xnnpack", "builtin": "xnnpack", "onnxruntime": "onnxruntime"}


def with_bounds(layers: Sequence[Layer], ceilings: Ceilings) -> tuple[Layer, ...]:
    """The layers of one model, whose weights share the caches, each with its bound."""
    weights = sum(layer.cost.weight_bytes for layer in layers if layer.cost)
    return tuple(
        replace(layer, bound=bound_of(layer, ceilings, model_weight_bytes=weights))
        for layer in layers
    )


def bound_of(layer: Layer, ceilings: Ceilings, *, model_weight_bytes: int) -> Bound:
    """The bound of ``layer``.

    Weights come round once an inference, so the caches can hold at most their share of all the
    model's weights; activations were written by the layer before.
    """
    source = _SOURCES.get(layer.backend)
    operators = max(1, len(layer.kernels)) * layer.runs
    overhead_us = ceilings.op_overhead_us.get(source or "", 0.0) * operators
    if layer.cost is None or source is None or not layer.kernels:
        floor = overhead_us if layer.kernels and source else layer.latency_us
        return Bound(
            "unknown", "", None, None, overhead_us, None, None, max(0.0, layer.latency_us - floor)
        )
    cost = layer.cost
    compute_us = _compute_us(cost.macs, ceilings, source, layer.compute)
    by_level = [
        weight_us + activation_us
        for weight_us, activation_us in zip(
            transfer_us(cost.weight_bytes, model_weight_bytes, ceilings.memory),
            transfer_us(cost.activation_bytes, cost.activation_bytes, ceilings.memory),
            strict=True,
        )
    ]
    memory_us = sum(by_level) if ceilings.memory else None
    level = ""
    if memory_us:
        level = ceilings.memory[by_level.index(max(by_level))].name
    roof_us = max((t for t in (compute_us, memory_us) if t is not None), default=None)
    latency_us = layer.latency_us
    known = roof_us is not None and compute_us is not None
    return Bound(
        limit=_limit(compute_us, memory_us, overhead_us),
        level=level,
        compute_us=compute_us,
        memory_us=memory_us,
        overhead_us=overhead_us,
        roof_us=roof_us if known else None,
        percent_of_roof=(
            100 * roof_us / latency_us
            if known and roof_us is not None and latency_us >= RESOLUTION_US
            else None
        ),
        recoverable_us=max(0.0, latency_us - max(roof_us or 0.0, overhead_us)) if known else 0.0,
    )


def transfer_us(
    size_bytes: int, footprint_bytes: int, memory: Sequence[MemoryLevel]
) -> tuple[float, ...]:
    """Least time to read ``size_bytes``, by memory level, when ``footprint_bytes`` go round.

    A level that holds C of F bytes can serve at most the share C / F, whatever it replaces
    (Belady's bound), so nearer levels serve all they can and DRAM the rest.
    """
    times = []
    served = 0.0
    for level in memory:
        share = 1.0
        if level.capacity_bytes is not None and footprint_bytes > 0:
            share = min(1.0, level.capacity_bytes / footprint_bytes)
        times.append(max(0.0, share - served) * size_bytes / level.bytes_per_s * _MICROSECONDS)
        served = max(served, share)
    return tuple(times)


def _compute_us(macs: int, ceilings: Ceilings, source: str, compute: str) -> float | None:
    """None where the layer multiplies in a type whose peak was not measured."""
    if macs == 0:
        return 0.0
    peak = _peak(ceilings, source, compute)
    return macs / peak * _MICROSECONDS if peak else None


def _peak(ceilings: Ceilings, source: str, compute: str) -> float | None:
    """The rate of the runtime's own best kernels.

    Where the independent peak agrees with it, both measure the same limit, each as well as the
    machine let it: the higher one is then nearer to it.
    """
    own = ceilings.peak(source, compute)
    if not own:
        return None
    # XNNPACK's int8 kernels have a limit of their own, nearer than that of the instructions.
    names = (compute, TILE) if (source, compute) == ("xnnpack", "int8") else (compute,)
    others = [ceilings.peak("independent", name) for name in names]
    return max([own, *(o for o in others if o and o < _SAME_LIMIT * own)])


def _limit(compute_us: float | None, memory_us: float | None, overhead_us: float) -> LimitedBy:
    if compute_us is None or memory_us is None:
        return "unknown"
    if overhead_us > max(compute_us, memory_us):
        return "overhead"
    return "compute" if compute_us >= memory_us else "memory"
