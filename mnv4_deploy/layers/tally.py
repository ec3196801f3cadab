"""Sums over images from which SQNR, cosine and the use of a range are computed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mnv4_deploy.decibels import decibels
from mnv4_deploy.layers.layer import Array, Quantization
from mnv4_deploy.layers.records import Agreement, RangeUse

_ROUNDING = 1e-4  # of the largest output


def differing(name: str, plain: Array, kept: Array) -> list[str]:
    """A note where the outputs of a run that keeps all tensors are not those of a plain run.

    Differences of float rounding are none: keeping a tensor undoes the fusion behind it.
    """
    expected = plain.astype(np.float64)
    difference = float(np.abs(expected - kept).max())
    if difference <= _ROUNDING * float(np.abs(expected).max()) or np.array_equal(
        plain, kept, equal_nan=True
    ):
        return []
    return [
        f"{name}: with all tensors kept, the outputs differ by up to {difference:.3g} from those "
        "of a plain run."
    ]


@dataclass
class AgreementTally:
    """Of a tensor of the candidate with the reference's."""

    signal: float = 0.0
    noise: float = 0.0
    dot: float = 0.0
    own: float = 0.0

    def add(self, reference: npt.NDArray[np.float64], candidate: npt.NDArray[np.float64]) -> None:
        # Infinities (a Pad in front of a maximum) agree, though their difference is no number.
        same = ~np.isfinite(reference) & (reference == candidate)
        if same.any():
            reference, candidate = (np.where(same, 0.0, v) for v in (reference, candidate))
        error = candidate - reference
        self.signal += float(np.vdot(reference, reference))
        self.noise += float(np.vdot(error, error))
        self.dot += float(np.vdot(reference, candidate))
        self.own += float(np.vdot(candidate, candidate))

    @property
    def gain(self) -> tuple[float, float]:
        """The factor that fits the candidate best, and the part (0..1) of the noise it makes."""
        if not (0 < self.signal < math.inf and 0 < self.noise < math.inf):
            return 1.0, 0.0
        factor = self.dot / self.signal
        rest = max(0.0, self.own - factor * self.dot)
        return factor, max(0.0, 1 - rest / self.noise)

    def result(self) -> Agreement:
        length = math.sqrt(self.signal * self.own)
        if length > 0 and math.isfinite(length):
            cosine = max(-1.0, min(1.0, self.dot / length))
        else:
            cosine = 1.0 if self.signal == self.own == 0 else 0.0
        return Agreement(decibels(self.signal, self.noise), cosine)


@dataclass
class RangeTally:
    """Of the reference's values in an integer tensor of the candidate.

    Infinities count as clipped; the extremes are those of the other values.
    """

    quantization: Quantization
    low: float = math.inf
    high: float = -math.inf
    count: int = 0
    clipped: int = 0
    clipping_error: float = 0.0
    error: float = 0.0
    signal: float = 0.0

    def add(self, reference: npt.NDArray[np.float64]) -> None:
        own = self.quantization
        first, last = own.codes
        # In units of the scale, where the range's ends are exact.
        steps = reference / own.scale
        codes = np.clip(np.rint(steps) + own.zero_point, first, last) - own.zero_point
        squared = np.square(codes - steps) * own.scale**2
        inside = (steps >= first - own.zero_point) & (steps <= last - own.zero_point)
        outside = ~inside  # NaN too
        finite = reference[np.isfinite(reference)]
        self.low = min(self.low, float(finite.min(initial=math.inf)))
        self.high = max(self.high, float(finite.max(initial=-math.inf)))
        self.count += reference.size
        self.clipped += int(np.count_nonzero(outside))
        self.clipping_error += float(squared[outside].sum())
        self.error += float(squared.sum())
        self.signal += float(np.vdot(finite, finite))

    def result(self) -> RangeUse:
        own = self.quantization
        spanned = min(self.high, own.high) - max(self.low, own.low)
        share = self.clipping_error / self.error if self.error > 0 else 0.0
        seen = math.isfinite(self.low)
        return RangeUse(
            scale=own.scale,
            zero_point=own.zero_point,
            low=own.low,
            high=own.high,
            seen_low=self.low if seen else 0.0,
            seen_high=self.high if seen else 0.0,
            used_percent=100 * max(0.0, spanned) / (own.high - own.low),
            clipped_percent=100 * self.clipped / self.count,
            clipping_share=share if math.isfinite(share) else 1.0,
            rounded_db=decibels(self.signal, self.error),
        )


@dataclass
class ChannelTally:
    """Largest values of each channel, and how much of an error is a constant of the channel."""

    axis: int
    peaks: Array | None = None
    error_sum: Array | None = None
    error_squared: float = 0.0
    count: int = field(default=0)

    def add_values(self, reference: npt.NDArray[np.float64]) -> None:
        peaks = np.abs(self._rows(reference)).max(axis=1)
        self.peaks = peaks if self.peaks is None else np.maximum(self.peaks, peaks)

    def add_error(self, error: npt.NDArray[np.float64]) -> None:
        rows = self._rows(error)
        sums = rows.sum(axis=1)
        self.error_sum = sums if self.error_sum is None else self.error_sum + sums
        self.error_squared += float(np.vdot(rows, rows))
        self.count += rows.shape[1]

    def _rows(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        rows = np.moveaxis(values, self.axis, 0).reshape(values.shape[self.axis], -1)
        return np.where(np.isfinite(rows), rows, 0.0)

    @property
    def offset_share(self) -> float:
        """The part of the squared error that a constant per channel accounts for, 0..1."""
        if self.error_sum is None or self.error_squared <= 0:
            return 0.0
        return float(np.square(self.error_sum).sum() / self.count / self.error_squared)
