"""What mending layers wins, tried: the reference runs with the noise of all layers but theirs.

With every layer's own noise, as the candidate's run has it, the reference computes what the
candidate does. Without that of some layers it computes what the candidate would if these were
float and handed on what they make unrounded. Images on which layers were chosen are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mnv4_deploy.decibels import decibels
from mnv4_deploy.layers.join import Match
from mnv4_deploy.layers.layer import Array, Disturbed, NetworkLayer, Quantization, Values
from mnv4_deploy.layers.records import OutputTrial, OutputTrials

# So many layers are tried, one by one and together, the first ones of the ranking.
TRIED = 3
# The sum of all noise is the candidate, to this, or nothing can be tried so.
_FAITHFUL_DB = 0.5

Range = tuple[float, float]


@dataclass(frozen=True)
class LayerRun:
    """A layer in the candidate's run: its output, and the reference's of the same inputs."""

    values: Array
    reference: Array


class TrialTally:
    """Sums over images for :class:`OutputTrials`.

    ``chosen`` are places in ``layers``; ``ranges`` what the reference's outputs of each span.
    """

    def __init__(
        self,
        disturbed: Disturbed,
        matches: Mapping[int, Match],
        layers: Sequence[NetworkLayer],
        chosen: Sequence[int],
        ranges: Sequence[Range],
    ) -> None:
        self._disturbed, self._matches, self._layers = disturbed, matches, layers
        self._chosen = tuple(chosen[:TRIED])
        self._fitting = [
            None if layer.quantization is None else fitting(layer.quantization, *ends)
            for layer, ends in zip(layers, ranges, strict=True)
        ]
        self._sums: dict[str, _Sum] = {}
        self._images = 0

    def add(
        self,
        feed: Values,
        runs: Sequence[LayerRun],
        reference_values: Mapping[int, Array],
        wanted: Sequence[Array],
        outputs: Sequence[Array],
    ) -> None:
        """One image; ``runs`` are of all layers, ``outputs`` the candidate's."""
        self._images += 1
        noise = [run.values - run.reference for run in runs]
        ranged = [self._ranged(i, run) for i, run in enumerate(runs)]

        def run_with(changed: Mapping[int, Array | None]) -> tuple[Array, ...]:
            added: dict[int, Array] = {}
            for i, layer in enumerate(self._layers):
                own = changed.get(i, noise[i])
                if own is None:
                    continue
                for t, part in self._matches[layer.output].back(own, reference_values).items():
                    added[t] = added[t] + part if t in added else part
            return self._disturbed(feed, added)

        found = {"candidate": tuple(outputs), "all": run_with({})}
        for place, i in enumerate(self._chosen):
            first = self._chosen[: place + 1]
            found[f"float {i}"] = run_with({i: None})
            found[f"together {place}"] = run_with(dict.fromkeys(first))
            if ranged[i] is not None:
                found[f"range {i}"] = run_with({i: ranged[i]})
        found["ranges"] = run_with({i: own for i, own in enumerate(ranged) if own is not None})
        for name, values in found.items():
            self._sums.setdefault(name, _Sum()).add(wanted, values)

    def _ranged(self, layer: int, run: LayerRun) -> Array | None:
        """The noise of a layer whose output has a range that fits."""
        own, other = self._layers[layer].quantization, self._fitting[layer]
        if own is None or other is None:
            return None
        rest = run.values - own.dequantize(own.quantize(run.reference))
        noise: Array = other.dequantize(other.quantize(run.reference)) - run.reference + rest
        return noise

    def result(self) -> OutputTrials | None:
        """None where the sum of all noise is not the candidate."""
        if not self._images:
            return None
        found = {name: tally.result() for name, tally in self._sums.items()}
        own = found["candidate"].sqnr_db
        if abs(found["all"].sqnr_db - own) > _FAITHFUL_DB:
            return None
        return OutputTrials(
            images=self._images,
            candidate=found["candidate"],
            in_float=tuple(found[f"float {i}"] for i in self._chosen),
            together=tuple(found[f"together {place}"] for place in range(len(self._chosen))),
            fitting_range=tuple(found.get(f"range {i}") for i in self._chosen),
            all_ranges=found["ranges"],
        )


class _Sum:
    def __init__(self) -> None:
        self._signal = self._noise = 0.0
        self._alike: int | None = 0

    def add(self, wanted: Sequence[Array], outputs: Sequence[Array]) -> None:
        for theirs, ours in zip(wanted, outputs, strict=True):
            truth: npt.NDArray[np.float64] = theirs.astype(np.float64)
            self._signal += float(np.square(truth).sum())
            self._noise += float(np.square(ours - truth).sum())
        scores = wanted[0].ravel()
        one_vector = len(wanted) == 1 and 1 < scores.size == wanted[0].shape[-1]
        if self._alike is not None and one_vector:
            self._alike += int(scores.argmax() == outputs[0].ravel().argmax())
        else:
            self._alike = None

    def result(self) -> OutputTrial:
        return OutputTrial(decibels(self._signal, self._noise), self._alike)


def fitting(quantization: Quantization, low: float, high: float) -> Quantization:
    """The codes of ``quantization`` spread over ``low..high``, and over 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    first, last = quantization.codes
    scale = (high - low) / (last - first)
    if scale <= 0:
        return quantization
    return replace(quantization, scale=scale, zero_point=round(first - low / scale))
