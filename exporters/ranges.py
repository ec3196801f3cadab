"""Activation ranges from a stream of calibration batches, in bounded memory.

One collector serves both backends. Per tensor it keeps the exact minimum and maximum and, for
the methods that look at the distribution, one histogram with a fixed number of bins. A value
outside the histogram doubles its width and merges bins in pairs, so no count ever moves to a bin
it does not belong to, and the values seen always fill more than half of the bins.

Every range contains 0, because a quantized tensor must represent 0 exactly:
    minmax      everything that was seen
    average     the mean of each batch's minimum and of each batch's maximum: one image with
                extreme values does not widen the range for all
    percentile  the central ``percentile`` % of the values
    mse         the range with the least mean squared quantization error
    entropy     the range with the least Kullback-Leibler divergence between the values'
                distribution and its quantized form (Migacz, "8-bit inference with TensorRT", 2017)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from mnv4_deploy.errors import InputError, UnsupportedError

RangeMethod = Literal["average", "minmax", "percentile", "mse", "entropy"]
Range = tuple[float, float]
FloatArray = npt.NDArray[np.float64]

_LEVELS = 256
_SHRINKS = np.linspace(1.0, 0.2, 81)


class Histogram:
    """Counts of the values seen, in ``bins`` (even) equal bins over a range that grows."""

    def __init__(self, bins: int) -> None:
        self.counts = np.zeros(bins, np.int64)
        self.low = 0.0
        self.width = 0.0

    @property
    def centres(self) -> FloatArray:
        bins = len(self.counts)
        centres: FloatArray = self.low + (np.arange(bins, dtype=np.float64) + 0.5) * (
            self.width / bins
        )
        return centres

    def update(self, values: npt.NDArray[Any], low: float, high: float) -> None:
        """Add values that lie between ``low`` and ``high``."""
        if self.width == 0.0:
            # A first batch of equal values still needs a bin width; doubling does the rest.
            self.low, self.width = low, high - low or max(abs(low), 1.0) * 1e-3
        while low < self.low or high > self.low + self.width:
            self._double(to_the_left=low < self.low)
        bins = len(self.counts)
        index = ((values.ravel() - self.low) * (bins / self.width)).astype(np.int64)
        np.clip(index, 0, bins - 1, out=index)  # the highest value closes the last bin
        self.counts += np.bincount(index, minlength=bins)

    def _double(self, *, to_the_left: bool) -> None:
        pairs = self.counts.reshape(-1, 2).sum(axis=1)
        empty = np.zeros_like(pairs)
        self.counts = np.concatenate([empty, pairs] if to_the_left else [pairs, empty])
        self.low -= self.width if to_the_left else 0.0
        self.width *= 2


def check_method(method: str) -> RangeMethod:
    """``method``. Raises UnsupportedError for one that does not exist."""
    if method not in get_args(RangeMethod):
        known = ", ".join(get_args(RangeMethod))
        raise UnsupportedError(
            f"There is no calibration method {method!r}: choose one of {known}."
        )
    return cast(RangeMethod, method)


class RangeCollector:
    """Collects one range per tensor.

    ``percentile`` is the share of values kept by the method of that name, in percent; ``bins``
    the (even) number of histogram bins, 8 bytes each.
    """

    def __init__(
        self, method: RangeMethod = "minmax", *, percentile: float = 99.99, bins: int = 4096
    ) -> None:
        method = check_method(method)
        if not 50 < percentile <= 100:
            raise UnsupportedError(f"a percentile must be above 50 and at most 100: {percentile}")
        if bins < 2 or bins % 2:
            raise ValueError("the number of bins must be even")
        self.method = method
        self._percentile = percentile
        self._bins = bins
        self._extremes: dict[str, Range] = {}
        self._sums: dict[str, tuple[float, float, int]] = {}
        self._histograms: dict[str, Histogram] = {}

    def update(self, name: str, array: npt.NDArray[Any]) -> None:
        """Add the values of one batch of tensor ``name``; raises InputError on NaN or infinity."""
        if array.size == 0:
            return
        low, high = float(array.min()), float(array.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise InputError(
                f"tensor {name} is not finite on a calibration image: check weights and images"
            )
        if self.method == "average":
            sum_low, sum_high, batches = self._sums.get(name, (0.0, 0.0, 0))
            self._sums[name] = (sum_low + low, sum_high + high, batches + 1)
        elif self.method != "minmax":
            histogram = self._histograms.setdefault(name, Histogram(self._bins))
            histogram.update(array, low, high)
        old_low, old_high = self._extremes.get(name, (low, high))
        self._extremes[name] = (min(low, old_low), max(high, old_high))

    def ranges(self) -> dict[str, Range]:
        """``(low, high)`` of every tensor seen, with ``low <= 0 <= high``."""
        return {name: self._range(name) for name in self._extremes}

    def _range(self, name: str) -> Range:
        low, high = self._extremes[name]
        if self.method == "minmax" or low == high:
            return min(low, 0.0), max(high, 0.0)
        if self.method == "average":
            sum_low, sum_high, batches = self._sums[name]
            return min(sum_low / batches, 0.0), max(sum_high / batches, 0.0)
        histogram = self._histograms[name]
        extremes = (min(low, 0.0), max(high, 0.0))
        if self.method == "percentile":
            return _central(histogram, extremes, self._percentile)
        cost = _squared_error if self.method == "mse" else _divergence
        return _cheapest(histogram, extremes, cost)


def _central(histogram: Histogram, extremes: Range, percentile: float) -> Range:
    share = np.cumsum(histogram.counts) / histogram.counts.sum()
    tail = (1 - percentile / 100) / 2
    bin_width = histogram.width / len(histogram.counts)
    low = histogram.low + bin_width * int(np.searchsorted(share, tail, side="right"))
    high = histogram.low + bin_width * (int(np.searchsorted(share, 1 - tail)) + 1)
    return max(min(low, 0.0), extremes[0]), min(max(high, 0.0), extremes[1])


def _cheapest(
    histogram: Histogram, extremes: Range, cost: Callable[[FloatArray, FloatArray, Range], float]
) -> Range:
    """Shrink both ends together, then each alone, as long as that lowers the cost."""
    used = np.flatnonzero(histogram.counts)
    inside = slice(used[0], used[-1] + 1)
    counts, centres = histogram.counts[inside].astype(np.float64), histogram.centres[inside]
    low, high = extremes
    candidates = [(low * s, high * s) for s in _SHRINKS]
    best = min(candidates, key=lambda r: cost(counts, centres, r))
    if low < 0.0 < high:
        for end in (0, 1):
            fixed = best
            ends = [extremes[end] * s for s in _SHRINKS]
            candidates = [(e, fixed[1]) if end == 0 else (fixed[0], e) for e in ends]
            best = min([fixed, *candidates], key=lambda r: cost(counts, centres, r))
    return best


def _squared_error(counts: FloatArray, centres: FloatArray, candidate: Range) -> float:
    """Total squared error of rounding the bin centres to the candidate's levels."""
    scale = (candidate[1] - candidate[0]) / (_LEVELS - 1)
    zero_point = np.round(-candidate[0] / scale)
    levels = np.clip(np.round(centres / scale) + zero_point, 0, _LEVELS - 1)
    return float(counts @ np.square((levels - zero_point) * scale - centres))


def _divergence(counts: FloatArray, centres: FloatArray, candidate: Range) -> float:
    """KL divergence of the clipped distribution from the same at 256 levels."""
    low, high = candidate
    kept = (centres >= low) & (centres <= high)
    if kept.sum() <= _LEVELS:  # fewer bins than levels: quantizing would look free
        return np.inf
    inner = counts[kept]
    clipped = inner.copy()
    clipped[0] += counts[centres < low].sum()
    clipped[-1] += counts[centres > high].sum()
    level = np.arange(len(inner)) * _LEVELS // len(inner)
    occupied = np.bincount(level, inner > 0, _LEVELS)
    mean = np.bincount(level, inner, _LEVELS) / np.maximum(occupied, 1)
    quantized = np.where(inner > 0, mean[level], 0.0)
    seen = clipped > 0
    # Mass that clipping put into an empty bin meets a tiny probability, and so costs much.
    q = np.maximum(quantized[seen] / quantized.sum(), 1e-12)
    p = clipped[seen] / clipped.sum()
    return float(p @ np.log(p / q))
