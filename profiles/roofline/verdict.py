"""What an interval says of two files: in words, and against a limit."""

from __future__ import annotations

import math
from typing import Literal

from mnv4_deploy.profiles.roofline.comparison import Comparison, Ratio

Verdict = Literal["faster", "slower", "unclear"]
Outcome = Literal["passed", "failed", "inconclusive"]


def verdict_of(ratio: Ratio) -> Verdict:
    """What B is, as far as the whole interval says so."""
    if ratio.high < 1:
        return "faster"
    return "slower" if ratio.low > 1 else "unclear"


def outcome_of(ratio: Ratio, limit: float) -> Outcome:
    """Whether B takes more than ``limit`` times A's time; "inconclusive" inside the interval."""
    if ratio.low > limit:
        return "failed"
    return "passed" if ratio.high <= limit else "inconclusive"


def verdict_sentence(result: Comparison) -> str:
    ratio = result.ratio
    verdict = verdict_of(ratio)
    if verdict == "unclear":
        if math.isinf(ratio.high):
            return "No difference can be told."
        return (
            "No difference that can be told: B takes between "
            f"{_percent(ratio.low)} and {_percent(ratio.high)} time."
        )
    return f"B is {verdict}: it takes {_times(ratio)} times the time of A."


def outcome_sentence(result: Comparison, limit: float) -> str:
    """Why the gate is open, closed or neither."""
    outcome = outcome_of(result.ratio, limit)
    if outcome == "inconclusive":
        known = "nothing is known" if math.isinf(result.ratio.high) else f"{_times(result.ratio)}"
        return (
            f"Inconclusive: the limit of {limit:g} is within what B may take ({known}). Close "
            "other programs, or give more --max-total-seconds."
        )
    side = "more than" if outcome == "failed" else "within"
    return (
        f"{result.b.measurement.path} takes {_times(result.ratio)} times the time of "
        f"{result.a.measurement.path}, {side} the {limit:g} allowed."
    )


def _times(ratio: Ratio) -> str:
    return f"{ratio.low:.3f} to {ratio.high:.3f}"


def _percent(ratio: float) -> str:
    percent = 100 * (ratio - 1)
    return f"{abs(percent):.1f} % {'more' if percent > 0 else 'less'}"
