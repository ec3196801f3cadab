"""A profile for a published machine that is not here: predicted, never measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mnv4_deploy.profiles.machine.predict import predict
from mnv4_deploy.profiles.records.graph import OpCost
from mnv4_deploy.profiles.records.machine import PublishedMachine
from mnv4_deploy.profiles.records.profile import Layer, Measurement
from mnv4_deploy.profiles.roofline.layers import layers_of, unfused

_MICROSECONDS = 1e6


@dataclass(frozen=True)
class PredictedLayer:
    """One layer; ``latency_us`` is None where the machine gives no rate."""

    name: str
    module: str
    op_type: str
    compute: str
    macs: int
    bytes: int
    share_percent: float
    bound: str
    latency_us: float | None


@dataclass(frozen=True)
class FilePrediction:
    """ModelTime of a file on ``machine``.

    ``relative_time`` is ModelTime over the time of the MACs alone (0 without MACs),
    ``memory_bound_percent`` the share of ModelTime in layers whose bytes take longer.
    """

    path: str
    machine: PublishedMachine
    layers: tuple[PredictedLayer, ...]
    relative_time: float
    memory_bound_percent: float
    latency_us: float | None
    notes: tuple[str, ...]


def predict_measured(measurement: Measurement, machine: PublishedMachine) -> FilePrediction:
    """The prediction for the layers that ``measurement`` found; its times are not used.

    Where it found none, each operator of the file is a layer.
    """
    layers = layers_of(measurement) or unfused(measurement)
    known = [(layer, layer.cost) for layer in layers if layer.cost is not None]
    prediction = predict([cost for _, cost in known], machine)
    total = prediction.mac_time
    rows = zip(known, prediction.layers, prediction.memory_bound, strict=True)
    return FilePrediction(
        path=measurement.path,
        machine=machine,
        layers=tuple(
            _layer(layer, cost, time, total, memory, machine)
            for (layer, cost), time, memory in rows
        ),
        relative_time=total / prediction.macs if prediction.macs else 0.0,
        memory_bound_percent=100 * prediction.memory_bound_time_share,
        latency_us=None if prediction.seconds is None else prediction.seconds * _MICROSECONDS,
        notes=measurement.notes + prediction_notes(layers, machine),
    )


def _layer(
    layer: Layer, cost: OpCost, time: float, total: float, memory: bool, machine: PublishedMachine
) -> PredictedLayer:
    rate = machine.macs_per_s
    return PredictedLayer(
        name=layer.name,
        module=layer.module,
        op_type=layer.op_type,
        compute=layer.compute,
        macs=cost.macs,
        bytes=cost.bytes,
        share_percent=100 * time / total if total else 0.0,
        bound="memory" if memory else "compute",
        latency_us=time / rate * _MICROSECONDS if rate else None,
    )


def prediction_notes(layers: Sequence[Layer], machine: PublishedMachine) -> tuple[str, ...]:
    """What the prediction for ``layers`` leaves out, or takes for something else."""
    other = other_types(layers, machine)
    notes = []
    if other:
        notes.append(
            f"The file multiplies in {', '.join(other)}, but the ridge point is published for"
            f" {machine.dtype}: read it as the bytes it moves, not as its speed."
        )
    unknown = sorted({x.op_type for x in layers if x.cost is None and x.file_op_types})
    if unknown:
        notes.append(f"Left out, for their cost is unknown: {', '.join(unknown)}.")
    return tuple(notes)


def other_types(
    layers: Sequence[Layer | PredictedLayer], machine: PublishedMachine
) -> tuple[str, ...]:
    """In what ``layers`` multiply that the ridge point is not published for."""
    width = machine.dtype.removeprefix("u")
    return tuple(
        sorted(
            {
                layer.compute
                for layer in layers
                if _macs(layer) and not layer.compute.removeprefix("u").startswith(width)
            }
        )
    )


def _macs(layer: Layer | PredictedLayer) -> int:
    if isinstance(layer, PredictedLayer):
        return layer.macs
    return layer.cost.macs if layer.cost else 0
