"""The mean of few values with its confidence interval: Student's t, for a crossover of two orders.

The values are of sessions, each independent of the others; half of them began with the other file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

_BISECTIONS = 60


def crossover_interval(
    values: Sequence[float], swapped: Sequence[bool], confidence_percent: float
) -> tuple[float, float, float]:
    """Mean over both orders, and the ends of its interval.

    What an order adds to its own values cancels in the mean and does not widen the interval: the
    spread is that within the orders. Unbounded where there are fewer than 3 values, or one order
    alone.
    """
    groups = [
        [v for v, other in zip(values, swapped, strict=True) if other is wanted]
        for wanted in (False, True)
    ]
    if not all(groups):
        return fmean(values), -math.inf, math.inf
    means = [fmean(group) for group in groups]
    middle, freedom = fmean(means), len(values) - len(groups)
    if freedom < 1:
        return middle, -math.inf, math.inf
    squares = (
        (value - mean) ** 2 for group, mean in zip(groups, means, strict=True) for value in group
    )
    variance = math.fsum(squares) / freedom
    error = math.sqrt(variance * math.fsum(1 / len(group) for group in groups)) / len(groups)
    reach = t_quantile(confidence_percent, freedom) * error
    return middle, middle - reach, middle + reach


def t_quantile(confidence_percent: float, freedom: int) -> float:
    """The t between whose negative and which lie ``confidence_percent`` of Student's distribution
    with ``freedom`` degrees of freedom."""
    low, high = 0.0, math.pi / 2
    for _ in range(_BISECTIONS):
        angle = (low + high) / 2
        if 100 * _within(angle, freedom) < confidence_percent:
            low = angle
        else:
            high = angle
    return math.sqrt(freedom) * math.tan(low)


def _within(angle: float, freedom: int) -> float:
    """The probability of |t| below sqrt(freedom) tan(angle), which is a finite sum for a whole
    ``freedom`` (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2 == 1
    term, total = (cosine if odd else 1.0), 0.0
    for k in range(1 if odd else 0, freedom - 1, 2):
        total += term
        term *= cosine**2 * (k + 1) / (k + 2)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
