"""The reference with other weights: how much of the outputs' noise they make, by running it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mnv4_deploy.decibels import decibels
from mnv4_deploy.layers.evidence import alike, reference_weights, rounded_weights
from mnv4_deploy.layers.join import Match
from mnv4_deploy.layers.layer import Array, Network, NetworkLayer, Reweighed, Values
from mnv4_deploy.layers.records import WeightsTrial

# More images make the figures finer but not the answer another one.
_IMAGES = 8


def open_weights_tally(
    theirs: Network,
    mine: Network,
    matches: Mapping[int, Match],
    layers: Sequence[NetworkLayer],
) -> WeightsTally | None:
    """For ``layers``, those of ``mine`` with a match; None where none has quantized weights."""
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
            return None
        given[match.tensors[0]] = weights.values.reshape(own.shape)
        rounded[match.tensors[0]] = rounded_weights(own)
    if not given:
        return None
    return WeightsTally(theirs.reweighed(given), theirs.reweighed(rounded), len(given), whole)


class WeightsTally:
    """Sums over the first images for :class:`WeightsTrial`."""

    def __init__(self, given: Reweighed, rounded: Reweighed, layers: int, whole: bool) -> None:
        self._given, self._rounded = given, rounded
        self._layers, self._whole = layers, whole
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
