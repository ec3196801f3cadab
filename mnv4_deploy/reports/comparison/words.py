"""What every form of a comparison says in the same words."""

from __future__ import annotations

import math
from collections.abc import Iterator

from mnv4_deploy.profiles.roofline.comparison import (
    CONFIDENCE_PERCENT,
    STATISTIC,
    Comparison,
    ModuleChange,
    Ratio,
)
from mnv4_deploy.profiles.roofline.verdict import outcome_sentence, verdict_sentence
from mnv4_deploy.text import NO_OPERATOR_TIMES, STATISTIC_TITLES, clean, plural

_SHOWN_FLOOR = 0.002


def ratio_text(ratio: Ratio, digits: int = 3) -> str:
    """The ratio and its interval, which has no ends where nothing is known."""
    if math.isinf(ratio.high):
        return f"{ratio.value:.{digits}f} [?]"
    return f"{ratio.value:.{digits}f} [{ratio.low:.{digits}f}-{ratio.high:.{digits}f}]"


def module_ratio_text(change: ModuleChange) -> str:
    if change.ratio is None:
        return "only B" if change.b_us else "only A"
    return ratio_text(change.ratio, 2)


def operators_text(change: ModuleChange) -> str:
    both = (change.a_op_types, change.b_op_types)
    a, b = (", ".join(dict.fromkeys(op_types)) for op_types in both)
    return a if a == b else f"{a or '–'} → {b or '–'}"


def ratio_title(result: Comparison) -> str:
    """What the ratio is of."""
    kind = "CPU" if result.of_cpu_time else "wall"
    return f"{STATISTIC_TITLES[STATISTIC]} of the {kind} times, {sessions_text(result)}"


def sessions_text(result: Comparison) -> str:
    return f"mean of {plural(len(result.sessions), 'session')}"


def interval_text(result: Comparison) -> str:
    """What the intervals are; "" where there are none."""
    if result.disturbed:
        return ""
    looks = ""
    if result.looks > 1:
        looks = f", {result.confidence_percent:.1f} % each for up to {result.looks} looks"
    floor = ""
    if result.floor >= _SHOWN_FLOOR:
        floor = (
            f" They are {100 * result.floor:.1f} % wider on both sides, for other programs used "
            f"{result.load_percent:.0f} % of the CPUs, which slows two files by unequal parts."
        )
    return (
        f"Intervals: {CONFIDENCE_PERCENT:.0f} %{looks}, Student's t over "
        f"{plural(len(result.sessions), 'session')} (processes) in which both files take turns."
        f"{floor}"
    )


def sentence_of(result: Comparison, limit: float | None) -> str:
    """The answer: against ``limit`` if there is one."""
    return verdict_sentence(result) if limit is None else outcome_sentence(result, limit)


def remarks(result: Comparison) -> Iterator[tuple[str, str]]:
    """What casts doubt on the times or explains them: "warning" or "note", and a sentence."""
    if result.disturbed:
        yield "warning", result.disturbed
    if not result.modules:
        yield "note", NO_OPERATOR_TIMES
    for letter, profile in (("A", result.a), ("B", result.b)):
        for warning in profile.trust.warnings:
            yield "warning", f"{letter}: {warning}"
        for note in profile.measurement.notes:
            yield "note", f"{letter}: {clean(note)}"
