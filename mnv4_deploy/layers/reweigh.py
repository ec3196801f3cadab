"""The reference with other weights: how much of the outputs' noise they make, by running it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mnv4_deploy.decibels import decibels
from mnv4_deploy.layers.evidence import alike, reference_weights, rounded_weights
from mnv4_deploy.layers.join import Match
from mnv4_deploy.layers.layer import Array, Network, NetworkLayer, Values
from mnv4_deploy.layers.records import WeightsTrial

# More images make the figures finer but not the answer another one.
_IMAGES = 8


@dataclass(frozen=True)
class OtherWeights:
    """By the reference's tensors: the candidate's weights, and the reference's own in 8 bits.

    ``whole``: no quantized weights of the candidate are missing.
    """

    given: Mapping[int, Array]
    rounded: Mapping[int, Array]
    whole: bool


def other_weights(
    theirs: Network,
    mine: Network,
    matches: Mapping[int, Match],
    layers: Sequence[NetworkLayer],
) -> OtherWeights:
    """Of ``layers``, those of ``mine`` with a match; empty where the reference's are no float."""
    names = {layer.output: layer for layer in theirs.layers}
    given: dict[int, Array] = {}
    rounded: dict[int, Array] = {}
    whole = True
    for layer in layers:
        match, weights = matches[layer.output], mine.weights(layer)
        if weights is None or not weights.scales:
            continue
        own = reference_weights(match, theirs)
        single = len(match.tensors) == 1 and match.channels is None
        if own is None or not single or not alike(own, weights.values):
            whole = False
            continue
        original = theirs.weights(names[match.tensors[0]])
        if original is None or original.scales:
            return OtherWeights({}, {}, whole=False)
        given[match.tensors[0]] = weights.values.reshape(own.shape)
        rounded[match.tensors[0]] = rounded_weights(own)
    return OtherWeights(given, rounded, whole)


class WeightsTally:
    """Sums over the first images for :class:`WeightsTrial`."""

    def __init__(self, theirs: Network, weights: OtherWeights) -> None:
        self._given = theirs.reweighed(weights.given)
        self._rounded = theirs.reweighed(weights.rounded)
        self._layers, self._whole = len(weights.given), weights.whole
        self._signal = 0.0
        self._noise = np.zeros(3)
        self._images = 0

    def add(self, feed: Values, wanted: Sequence[Array], outputs: Sequence[Array]) -> None:
        """One image: the reference's ``feed`` and outputs, and the candidate's outputs."""
        if self._images == _IMAGES:
            return
        self._images += 1
        self._signal += _power(wanted)
        runs = (outputs, self._given(feed), self._rounded(feed))
        for i, run in enumerate(runs):
            self._noise[i] += _power([a - b for a, b in zip(run, wanted, strict=True)])

    def result(self) -> WeightsTrial:
        own, given, rounded = (decibels(self._signal, float(noise)) for noise in self._noise)
        return WeightsTrial(self._images, self._layers, self._whole, own, given, rounded)


def _power(arrays: Sequence[Array]) -> float:
    return sum(float(np.square(array.astype(np.float64)).sum()) for array in arrays)
