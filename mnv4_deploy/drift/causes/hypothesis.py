"""What a rule thinks of a layer, and the estimates that rules share.

All figures of damage are noise shares: noise power over signal power, 0.001 being 30 dB. A rule
says how much of it its mechanism makes, so that the best explanation is the largest one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mnv4_deploy.layers.records import Cause, CauseKind, LayerDrift

# Below this (30 dB) a layer does what int8 layers do and needs no explanation.
DAMAGE = 1e-3
# Largest value over root mean square of a channel: 3 for Gaussian values, 4 to 6 after ReLU.
CREST = 4.0
# The same of a filter's few weights.
WEIGHT_CREST = 2.0


@dataclass(frozen=True)
class Hypothesis:
    """A possible cause and the noise share that it accounts for.

    ``of_range``: it lies in the range of the layer's output, so that whoever reads that output
    suffers from it too. ``culprit``: the ``LayerDrift.index`` of the layer that is to blame, where
    it is another one.
    """

    kind: CauseKind
    share: float
    sentence: str
    advice: str
    of_range: bool = False
    culprit: int | None = None

    @property
    def cause(self) -> Cause:
        return Cause(self.kind, self.sentence, self.advice)

    def at_least(self, share: float) -> Hypothesis:
        return replace(self, share=max(self.share, share))


@dataclass(frozen=True)
class LayerContext:
    """A layer with its neighbours: whose outputs it reads, and who reads its own."""

    layer: LayerDrift
    producers: tuple[LayerDrift, ...] = ()
    readers: tuple[LayerDrift, ...] = ()

    @property
    def measured(self) -> float:
        """The noise share of the layer alone, 0 where it could not be run alone."""
        return noise_alone(self.layer)


def scenes(layers: Sequence[LayerDrift]) -> list[LayerContext]:
    """In the order of ``layers``. Without known inputs a layer is taken to read the last one."""
    by_index = {layer.index: layer for layer in layers}
    producers: dict[int, tuple[LayerDrift, ...]] = {}
    readers: dict[int, list[LayerDrift]] = {layer.index: [] for layer in layers}
    wired = any(layer.inputs for layer in layers)
    for position, layer in enumerate(layers):
        known = tuple(by_index[i] for i in layer.inputs if i in by_index)
        before = () if wired or not position else (layers[position - 1],)
        producers[layer.index] = known or before
        for producer in producers[layer.index]:
            readers[producer.index].append(layer)
    return [
        LayerContext(layer, producers[layer.index], tuple(readers[layer.index]))
        for layer in layers
    ]


def noise_alone(layer: LayerDrift) -> float:
    return 0.0 if layer.isolated is None else layer.isolated.noise_share


def live_peaks(layer: LayerDrift) -> npt.NDArray[np.float64]:
    """The largest values of the output's channels that are ever used; empty where unknown."""
    peaks = layer.evidence.channel_peaks
    if peaks is None:
        return np.zeros(0)
    return peaks[np.isfinite(peaks) & (peaks > 0)]


def signal_peak(layer: LayerDrift) -> float:
    """The root mean square of the channels' peaks: what a tensor's power goes by."""
    live = live_peaks(layer)
    if len(live):
        return float(np.sqrt(np.mean(np.square(live))))
    output = layer.output
    return 0.0 if output is None else max(abs(output.seen_low), abs(output.seen_high))


def rounding(step: float, peak: float, crest: float = CREST) -> float:
    """Noise share of rounding to steps of ``step`` values whose largest is ``peak``, at most 1."""
    if peak <= 0 or not math.isfinite(peak):
        return 0.0
    return min(1.0, (step / peak * crest) ** 2 / 12)


def same_range(one: LayerDrift, other: LayerDrift) -> bool:
    a, b = one.output, other.output
    return a is not None and b is not None and (a.scale, a.zero_point) == (b.scale, b.zero_point)


def span(layer: LayerDrift) -> float:
    """The width of what the reference's values span, 0 where that is unknown."""
    return 0.0 if layer.output is None else layer.output.seen_high - layer.output.seen_low


def decibels(share: float) -> str:
    return f"{-10 * math.log10(max(share, 1e-20)):.1f} dB"


def name(layer: LayerDrift) -> str:
    return layer.module or layer.tensor
