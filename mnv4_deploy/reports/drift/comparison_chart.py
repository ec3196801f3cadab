"""A figure of both networks on a common axis, with intervals where there are some."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mnv4_deploy.reports.drift.words import measured_text
from mnv4_deploy.tasks.report import Comparison, Measured

# In percent of the width: a dot at the very end would be cut in half.
_LEFT, _RIGHT = 3.0, 97.0
_PERCENT = "%"


@dataclass(frozen=True)
class Bar:
    """One network's figure ``at`` percent of the width; its interval from ``low`` to ``high``."""

    name: str
    text: str
    at: float
    low: float
    high: float


def bars(comparison: Comparison) -> Iterable[Bar]:
    """One for each network that has a figure."""
    pair = (("reference", comparison.reference), ("candidate", comparison.candidate))
    known = [(name, measured) for name, measured in pair if measured]
    ends = [end for _, measured in known for end in _ends(measured)]
    low, high = min(ends), max(ends)
    room = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = low - room, high + room
    if comparison.unit == _PERCENT:
        low, high = max(low, 0.0), min(high, 100.0)

    def x(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (_RIGHT - _LEFT)

    for name, measured in known:
        first, last = _ends(measured)
        text = measured_text(measured, comparison.unit)
        yield Bar(name, text, x(measured.value), x(first), x(last))


def _ends(measured: Measured) -> tuple[float, float]:
    if measured.low is None or measured.high is None:
        return measured.value, measured.value
    return measured.low, measured.high
