"""How far apart two tensors are, and what that is called."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

import numpy as np
import numpy.typing as npt

from mnv4_deploy.decibels import decibels
from mnv4_deploy.layers.layer import Array, Quantization
from mnv4_deploy.parity.records import Difference, Verdict
from mnv4_deploy.tolerances import TOLERANCES

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)  # from the strictest on


def verdict_of(differing: int, max_relative_error: float, *, floats: bool) -> Verdict:
    """ "exact" where nothing differs; integers that do are "different", by however little."""
    if not differing:
        return "exact"
    if floats:
        for verdict in VERDICTS[1:-1]:
            if max_relative_error <= TOLERANCES[verdict].value:
                return verdict
    return "different"


def within(verdict: Verdict, limit: Verdict) -> bool:
    """Whether ``verdict`` is at least as strict as ``limit``."""
    return VERDICTS.index(verdict) <= VERDICTS.index(limit)


def same_bits(here: Array, there: Array) -> npt.NDArray[np.bool_]:
    """Where two arrays of one shape and type agree bit for bit; any NaN agrees with any NaN."""
    if here.dtype.kind != "f":
        return np.asarray(here == there)
    bits = np.dtype(f"u{here.dtype.itemsize}")
    same = np.ascontiguousarray(here).view(bits) == np.ascontiguousarray(there).view(bits)
    return np.asarray(same.reshape(here.shape) | (np.isnan(here) & np.isnan(there)))


@dataclass
class Tally:
    """Differences of one tensor, added up over inferences.

    ``quantization`` turns codes into real values; integers without one count as they are.
    """

    quantization: Quantization | None = None
    elements: int = 0
    differing: int = 0
    max_error: float = 0.0
    max_codes: int = 0
    largest: float = 0.0
    signal: float = 0.0
    noise: float = 0.0
    floats: bool = False

    def add(self, here: Array, there: Array) -> int:
        """Count one more inference; how many elements of it differ.

        Arrays of unequal shapes or types differ in every element, by an infinite error.
        """
        self.elements += here.size
        self.floats = self.floats or here.dtype.kind == "f"
        real = self._real(here)
        finite = np.where(np.isfinite(real), real, 0.0)
        self.largest = max(self.largest, float(np.abs(finite).max(initial=0.0)))
        self.signal += float(np.vdot(finite, finite))
        if here.shape != there.shape or here.dtype != there.dtype:
            self.differing += here.size
            self.max_error = self.noise = math.inf
            return here.size
        different = ~same_bits(here, there)
        count = int(np.count_nonzero(different))
        if count:
            self.differing += count
            self._add_errors(here[different], there[different])
        return count

    def _add_errors(self, here: Array, there: Array) -> None:
        if here.dtype.kind in "iu":
            codes = np.abs(here.astype(np.int64) - there.astype(np.int64))
            self.max_codes = max(self.max_codes, int(codes.max()))
        with np.errstate(invalid="ignore", over="ignore"):
            error = np.abs(self._real(here) - self._real(there))
        # NaN or infinity on one side alone is as far off as can be.
        error = np.where(np.isfinite(error), error, np.inf)
        self.max_error = max(self.max_error, float(error.max()))
        with np.errstate(over="ignore"):
            self.noise += float(np.square(error).sum())

    def _real(self, values: Array) -> npt.NDArray[np.float64]:
        real: npt.NDArray[np.float64] = values.astype(np.float64)
        own = self.quantization
        if own is not None and values.dtype.kind in "iu":
            real = (real - own.zero_point) * own.scale
        return real

    @property
    def max_relative_error(self) -> float:
        if not self.max_error:
            return 0.0
        return self.max_error / self.largest if self.largest else math.inf

    def result(self) -> Difference:
        relative = self.max_relative_error
        return Difference(
            elements=self.elements,
            differing=self.differing,
            max_error=self.max_error,
            max_relative_error=relative,
            max_codes=None if self.floats else self.max_codes,
            sqnr_db=decibels(self.signal, self.noise) if self.noise else math.inf,
            verdict=verdict_of(self.differing, relative, floats=self.floats),
        )


def worst_of(differences: list[Difference]) -> Difference:
    """Several tensors as one: counts added, the worst of everything else."""
    if len(differences) == 1:
        return differences[0]
    codes = [d.max_codes for d in differences if d.max_codes is not None]
    return Difference(
        elements=sum(d.elements for d in differences),
        differing=sum(d.differing for d in differences),
        max_error=max(d.max_error for d in differences),
        max_relative_error=max(d.max_relative_error for d in differences),
        max_codes=max(codes) if codes else None,
        sqnr_db=min(d.sqnr_db for d in differences),
        verdict=max((d.verdict for d in differences), key=VERDICTS.index),
    )
