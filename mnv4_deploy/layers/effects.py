"""What each layer's own noise does to the outputs: it is added to the reference, layer by layer.

A layer's own noise is what it makes of its inputs in the candidate's own run beside what the
reference's layer makes of the same inputs; so nothing is counted twice. What the noise of one
layer changes at the outputs adds up over layers as long as it is small, and what mending some of
them would gain follows from products of these changes, without more runs.

Few outputs on few images would fit any sum of many layers. So the first images only choose the
layers that change the outputs most, and what mending these gains is told from the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mnv4_deploy.decibels import decibels
from mnv4_deploy.layers.join import Match
from mnv4_deploy.layers.layer import Array, Network, NetworkLayer, Values
from mnv4_deploy.layers.records import OutputEffect, OutputEffects
from mnv4_deploy.layers.trials import LayerRun, TrialTally

# So many images choose this many layers; of these none is ranked that gains less.
SCREENED_IMAGES = 4
_CHOSEN = 12
_LEAST_DB = 0.05
# Of the images that follow this part, and no more, is kept for trying what the others chose.
_TRIED_PART, _MOST_TRIED = 3, 8

_Changes = npt.NDArray[np.float64]


@dataclass(frozen=True)
class OwnNoise:
    """Of one layer, in the candidate's layout, and the power that its output's rounding makes,
    its weights, and both with all else."""

    values: Array
    rounding_power: float
    weights_power: float
    power: float


def own_noise(
    layer: NetworkLayer, values: Array, reference: Array, weighed: Array | None
) -> OwnNoise:
    """What the candidate's layer, the reference's and that with the candidate's weights make of
    the same inputs; ``weighed`` is None where the weights are not known."""
    rounded = reference
    if layer.quantization is not None:
        rounded = layer.quantization.dequantize(layer.quantization.quantize(reference))
    rest, output = _power(values - rounded), _power(rounded - reference)
    weights = rest if weighed is None else min(_power(weighed - reference), rest)
    return OwnNoise(values - reference, output, weights, rest + output)


def _power(values: Array) -> float:
    exact = values.astype(np.float64)
    return float(np.vdot(exact, exact))


class EffectTally:
    """Sums over images for :class:`OutputEffects`.

    ``layers`` are the candidate's that run alone, ``cut`` the tensors they read, ``weights`` the
    candidate's by the reference's tensors, ``images`` how many there will be.
    """

    def __init__(
        self,
        theirs: Network,
        matches: Mapping[int, Match],
        layers: Sequence[NetworkLayer],
        cut: Sequence[int],
        reference_values: Mapping[int, Array],
        weights: Mapping[int, Array],
        images: int,
    ) -> None:
        self._theirs, self._matches, self._layers, self._cut = theirs, matches, layers, cut
        read = {t for layer in layers for t in matches[layer.output].tensors}
        given = {t for tensor in cut for t in matches[tensor].tensors}
        example = {t: reference_values[t] for t in given}
        self._alone = theirs.isolate(example, sorted(read))
        self._weighed = theirs.isolate(example, sorted(read), weights) if weights else None
        self._known = weights.keys()
        self._disturbed = theirs.disturb({t: reference_values[t] for t in read})
        self._chosen = tuple(range(len(layers)))
        self._changed: _Changes = np.zeros(len(layers))
        self._weights_power: _Changes = np.zeros(len(layers))
        self._rounding_power: _Changes = np.zeros(len(layers))
        self._noise_power: _Changes = np.zeros(len(layers))
        self._unexplained = self._power = 0.0
        self._sums: _Sums | None = None
        self._sizes: list[float] = []
        self._images = 0
        self._first_tried = images - min(
            max(images - SCREENED_IMAGES, 0) // _TRIED_PART, _MOST_TRIED
        )
        self._ranges = [(0.0, 0.0)] * len(layers)
        self._trials: TrialTally | None = None

    def add(
        self,
        feed: Values,
        reference_values: Mapping[int, Array],
        values: Mapping[int, Array],
        outputs: Sequence[Array],
    ) -> None:
        """One image: the reference's ``feed`` and tensors, the candidate's ``values``, and its
        ``outputs`` in the reference's layout."""
        read = {**feed, **self._inputs(reference_values, values)}
        theirs = self._alone(read)
        still = self._disturbed(feed, {})
        if self._images == self._first_tried and self._sums is not None:
            chosen = [self._chosen[first[-1]] for first in self._sums.ranked()]
            self._trials = TrialTally(
                self._disturbed, self._matches, self._layers, chosen, self._ranges
            )
        if self._trials is not None:
            runs = [
                LayerRun(values[x.output], self._matches[x.output](theirs)) for x in self._layers
            ]
            self._trials.add(feed, runs, reference_values, still, outputs)
            self._images += 1
            return
        self._see_ranges(reference_values)
        self._sizes = self._sizes or [max(float(np.abs(output).max()), 1e-30) for output in still]
        wanted = self._joined(still)
        weighed = None if self._weighed is None else self._weighed(read)
        changes = []
        for i in self._chosen:
            layer = self._layers[i]
            match = self._matches[layer.output]
            known = weighed is not None and self._known >= {*match.tensors}
            other = match(weighed) if known and weighed is not None else None
            noise = own_noise(layer, values[layer.output], match(theirs), other)
            self._rounding_power[i] += noise.rounding_power
            self._weights_power[i] += noise.weights_power
            self._noise_power[i] += noise.power
            added = match.back(noise.values, reference_values)
            changes.append(self._joined(self._disturbed(feed, added)) - wanted)
        matrix, error = np.stack(changes), self._joined(outputs) - wanted
        self._images += 1
        if self._sums is not None:
            self._sums.add(matrix, error, wanted)
            return
        rest = error - matrix.sum(axis=0)
        power = float(error @ error)
        self._unexplained += float(rest @ rest)
        self._power += power
        # Images count alike, though the error of some is many times that of others.
        self._changed += np.square(matrix).sum(axis=1) / max(power, np.finfo(float).tiny)
        if self._images == SCREENED_IMAGES:
            self._chosen = tuple(map(int, np.argsort(-self._changed, kind="stable")[:_CHOSEN]))
            self._sums = _Sums(len(self._chosen))

    def _see_ranges(self, reference_values: Mapping[int, Array]) -> None:
        for i, layer in enumerate(self._layers):
            seen = self._matches[layer.output](reference_values)
            low, high = self._ranges[i]
            self._ranges[i] = min(low, float(seen.min())), max(high, float(seen.max()))

    def _inputs(
        self, reference_values: Mapping[int, Array], values: Mapping[int, Array]
    ) -> dict[int, Array]:
        """What the candidate's layers read, as the reference's tensors."""
        found: dict[int, Array] = {}
        for tensor in self._cut:
            match = self._matches[tensor]
            change = values[tensor] - match(reference_values)
            for t, part in match.back(change, reference_values).items():
                found[t] = found.get(t, reference_values[t]) + part
        return found

    def _joined(self, outputs: Sequence[Array]) -> _Changes:
        """All outputs in one row, each in units of its largest value on the first image."""
        rows = zip(outputs, self._sizes, strict=True)
        return np.concatenate([row.astype(np.float64).ravel() / size for row, size in rows])

    def result(self, positions: Sequence[int]) -> OutputEffects | None:
        """``positions`` are those of the layers in ``LayersDrift.layers``. None for few images."""
        sums = self._sums
        if sums is None or not sums.images:
            return None
        found = OutputEffects(
            images=sums.images,
            sqnr_db=decibels(sums.signal, sums.power),
            explained_share=1 - self._unexplained / self._power if self._power > 0 else 1.0,
            ranked=tuple(
                OutputEffect(
                    layer=positions[self._chosen[first[-1]]],
                    gain_db=sums.gain_db(first[-1:]),
                    total_gain_db=sums.gain_db(first),
                    weights_share=self._part(self._weights_power, self._chosen[first[-1]]),
                    rounding_share=self._part(self._rounding_power, self._chosen[first[-1]]),
                )
                for first in sums.ranked()
            ),
        )
        if self._trials is None or not found.adds_up:
            return found
        return replace(found, tried=self._trials.result())

    def share(self, output: int) -> float | None:
        """The part of the noise of the layer with this output that its weights make, if known."""
        places = [i for i, layer in enumerate(self._layers) if layer.output == output]
        if not places or not self._known >= {*self._matches[output].tensors}:
            return None
        return self._part(self._weights_power, places[0])

    def _part(self, powers: _Changes, layer: int) -> float:
        power = float(self._noise_power[layer])
        return float(powers[layer]) / power if power > 0 else 0.0


class _Sums:
    """Products of what layers change at the outputs with each other and with the whole error."""

    def __init__(self, count: int) -> None:
        self._gram: _Changes = np.zeros((count, count))
        self._along: _Changes = np.zeros(count)
        self.power = self.signal = 0.0
        self.images = 0

    def add(self, changes: _Changes, error: _Changes, wanted: _Changes) -> None:
        self._gram += changes @ changes.T
        self._along += changes @ error
        self.power += float(error @ error)
        self.signal += float(wanted @ wanted)
        self.images += 1

    def gain_db(self, mended: Sequence[int]) -> float:
        """Of the outputs' SQNR, without what the ``mended`` layers do to them."""
        inner = float(self._gram[np.ix_(mended, mended)].sum())
        left = self.power - 2 * float(self._along[list(mended)].sum()) + inner
        return decibels(self.power, max(left, 0.0))

    def ranked(self) -> list[list[int]]:
        """Which to mend first, which two, and so on."""
        found: list[list[int]] = []
        first: list[int] = []
        while others := [i for i in range(len(self._along)) if i not in first]:
            best = max(others, key=lambda i: self.gain_db([*first, i]))
            if self.gain_db([*first, best]) - (self.gain_db(first) if first else 0) < _LEAST_DB:
                break
            first = [*first, best]
            found.append(first)
        return found
