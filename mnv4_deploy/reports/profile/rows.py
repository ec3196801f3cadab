"""The figures of each layer under stable names with units, the same in every output."""

from __future__ import annotations

from mnv4_deploy.profiles.records.profile import Layer, ModelProfile, Spread

Cell = int | float | str | None
Row = dict[str, Cell]


def rows_of(profile: ModelProfile) -> list[Row]:
    """One row a layer, in order. None stands for what is not known, never 0.

    ``share_percent`` is the layer's latency over the sum of all layers'.
    """
    total_us = sum(layer.latency_us for layer in profile.layers)
    return [row_of(layer, total_us) for layer in profile.layers]


def gmacs_per_s(layer: Layer) -> float | None:
    """Attained GMAC/s; None where cost or time is not known."""
    if layer.cost is None or not layer.latency_us:
        return None
    return layer.cost.macs / layer.latency_us / 1e3


def row_of(layer: Layer, total_us: float) -> Row:
    """The row of one layer of a model whose layers take ``total_us`` together."""
    spread = Spread.of(layer.samples_us)
    cost, bound = layer.cost, layer.bound
    return {
        "index": layer.index,
        "module": layer.module,
        "name": layer.name,
        "op_type": layer.op_type,
        "compute": layer.compute,
        "backend": layer.backend,
        "partition": layer.partition,
        "file_op_types": "; ".join(layer.file_op_types),
        "kernels": "; ".join(layer.kernels),
        "output_shape": "x".join(str(size) for size in layer.output_shape),
        "latency_us": layer.latency_us,
        "p10_us": spread.p10,
        "p50_us": spread.p50,
        "p90_us": spread.p90,
        "min_us": spread.min,
        "max_us": spread.max,
        "mean_us": spread.mean,
        "share_percent": 100 * layer.latency_us / total_us if total_us else 0.0,
        "macs": cost.macs if cost else None,
        "other_ops": cost.other_ops if cost else None,
        "weight_bytes": cost.weight_bytes if cost else None,
        "read_bytes": cost.read_bytes if cost else None,
        "written_bytes": cost.written_bytes if cost else None,
        "operational_intensity": cost.operational_intensity if cost else None,
        "gmacs_per_s": gmacs_per_s(layer),
        "bound": bound.limit if bound else None,
        "level": bound.level if bound else None,
        "roof_us": bound.roof_us if bound else None,
        "percent_of_roof": bound.percent_of_roof if bound else None,
        "recoverable_us": bound.recoverable_us if bound else None,
        "refusal": layer.refusal,
    }
