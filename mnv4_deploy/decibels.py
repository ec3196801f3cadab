"""Signal to noise in decibels, the same wherever it is reported."""

from __future__ import annotations

import math

CAP_DB = 200.0


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise) of two powers (sums of squares), within +-200 dB.

    The cap keeps equality (no noise) a JSON number; powers that are not finite count as -200.
    """
    if not (math.isfinite(signal) and math.isfinite(noise)):
        return -CAP_DB
    if noise <= signal * 1e-20:
        return CAP_DB
    # The quotient itself could underflow.
    return max(-CAP_DB, 10 * (math.log10(max(signal, 1e-300)) - math.log10(noise)))
