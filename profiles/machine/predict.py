"""What a model would take on a machine of which only a few numbers are published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mnv4_deploy.profiles.costs.model_time import model_time
from mnv4_deploy.profiles.records.graph import OpCost
from mnv4_deploy.profiles.records.machine import PublishedMachine


@dataclass(frozen=True)
class Prediction:
    """ModelTime of a model (MobileNetV4 paper, section 3.1), and of each of its layers.

    Times are in units of the time that one MAC takes at the machine's peak; ``seconds`` is None
    where neither the peak nor latencies were published. ``macs`` is ModelTime if memory cost
    nothing. ``memory_bound`` says for each layer whether its bytes take longer than its MACs.
    """

    machine: PublishedMachine
    layers: tuple[float, ...]
    memory_bound: tuple[bool, ...]
    macs: int
    seconds: float | None

    @property
    def mac_time(self) -> float:
        return sum(self.layers)

    @property
    def memory_bound_time_share(self) -> float:
        """The share of the time that those layers take; 0 where nothing takes any."""
        bound = sum(t for t, b in zip(self.layers, self.memory_bound, strict=True) if b)
        return bound / self.mac_time if self.mac_time else 0.0


def predict(costs: Sequence[OpCost], machine: PublishedMachine) -> Prediction:
    """ModelTime = sum over layers of max(MACs / peak, bytes / bandwidth) on ``machine``.

    Other operations than MACs are not counted, as in the paper.
    """
    layers = tuple(model_time([(c.macs, c.bytes)], machine.ridge_point) for c in costs)
    rate = machine.macs_per_s
    return Prediction(
        machine=machine,
        layers=layers,
        memory_bound=tuple(c.bytes * machine.ridge_point > c.macs for c in costs),
        macs=sum(c.macs for c in costs),
        seconds=sum(layers) / rate if rate else None,
    )
