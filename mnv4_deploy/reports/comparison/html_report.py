"""One self-contained page about a comparison: opens anywhere, asks no network for anything."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from mnv4_deploy.profiles.records.profile import ModelProfile
from mnv4_deploy.profiles.roofline.comparison import Comparison
from mnv4_deploy.profiles.roofline.verdict import outcome_of
from mnv4_deploy.reports.comparison.words import (
    interval_text,
    module_ratio_text,
    operators_text,
    ratio_text,
    ratio_title,
    remarks,
    sentence_of,
)
from mnv4_deploy.reports.page import render_page, resource
from mnv4_deploy.text import STATISTIC_TITLES, plural

# Of the chart, in its own units; a hundredth on either side of what it shows.
_WIDTH, _MARGIN = 1000.0, 0.01


@dataclass(frozen=True)
class Mark:
    """Something on the axis of ratios, ``x`` in units of the chart."""

    x: float
    title: str


@dataclass(frozen=True)
class Chart:
    """The sessions' ratios, the interval, 1 and the limit on one logarithmic axis."""

    sessions: tuple[Mark, ...]
    lines: tuple[Mark, ...]
    middle: Mark
    interval: tuple[float, float] | None


def report_page(result: Comparison, limit: float | None = None) -> str:
    """The page, complete. Raises MissingLibraryError without Jinja2."""
    return render_page(
        "comparison/page.html.j2",
        title=f"{_name(result.b)} against {_name(result.a)}",
        style=resource("comparison/comparison.css"),
        scripts=(resource("page.js"),),
        result=result,
        names=(_name(result.a), _name(result.b)),
        sentence=sentence_of(result, limit),
        outcome="" if limit is None else outcome_of(result.ratio, limit),
        ratio=ratio_text(result.ratio),
        ratio_title=ratio_title(result),
        statistics=STATISTIC_TITLES,
        warnings=[sentence for kind, sentence in remarks(result) if kind == "warning"],
        notes=[sentence for kind, sentence in remarks(result) if kind == "note"],
        chart=chart_of(result, limit),
        intervals=interval_text(result),
        module_ratio=module_ratio_text,
        operators=operators_text,
        facts=(("A", _facts(result.a)), ("B", _facts(result.b))),
    )


def chart_of(result: Comparison, limit: float | None) -> Chart:
    ratio = result.ratio
    known = math.isfinite(ratio.high) and ratio.low > 0
    ends = (ratio.low, ratio.high) if known else ()
    lines = [1.0, *([] if limit is None else [limit])]
    shown = [*result.session_ratios, *ends, *lines, ratio.value]
    place = _Axis(shown)
    return Chart(
        sessions=tuple(
            Mark(
                place(value),
                f"session {index}, {'B' if session.b_first else 'A'} opened first: {value:.3f}",
            )
            for index, (value, session) in enumerate(
                zip(result.session_ratios, result.sessions, strict=True), 1
            )
        ),
        lines=tuple(Mark(place(value), f"{value:g}") for value in lines),
        middle=Mark(place(ratio.value), ratio_text(ratio)),
        interval=(place(ratio.low), place(ratio.high)) if known else None,
    )


class _Axis:
    def __init__(self, values: Sequence[float]) -> None:
        logs = [math.log(value) for value in values]
        self._low, self._high = min(logs) - _MARGIN, max(logs) + _MARGIN

    def __call__(self, value: float) -> float:
        return _WIDTH * (math.log(value) - self._low) / (self._high - self._low)


def _name(profile: ModelProfile) -> str:
    return PurePath(profile.measurement.path).name


def _facts(profile: ModelProfile) -> list[tuple[str, str]]:
    return list(_each_fact(profile))


def _each_fact(profile: ModelProfile) -> Iterator[tuple[str, str]]:
    measured = profile.measurement
    yield "File", measured.path
    yield "SHA-256", measured.sha256
    yield "Runtime", measured.runtime
    yield "Threads", str(measured.threads)
    yield "CPUs", ", ".join(map(str, measured.cpus))
    runs = sum(map(len, measured.rounds_us))
    yield "Runs", f"{runs} in {plural(len(measured.rounds_us), 'round')}"
