"""A comparison as a few lines of Markdown, for a comment on a change."""

from __future__ import annotations

import re
from pathlib import PurePath

from mnv4_deploy.profiles.roofline.comparison import Comparison
from mnv4_deploy.profiles.roofline.verdict import outcome_of
from mnv4_deploy.reports.comparison.words import (
    interval_text,
    module_ratio_text,
    ratio_text,
    ratio_title,
    remarks,
    sentence_of,
)
from mnv4_deploy.text import STATISTIC_TITLES, clean, milliseconds, plural

_SHOWN = 10
_MARKS = {"passed": "✅", "failed": "❌", "inconclusive": "❔"}


def markdown(result: Comparison, limit: float | None = None) -> str:
    mark = "" if limit is None else _MARKS[outcome_of(result.ratio, limit)] + " "
    a, b = (code(PurePath(p.measurement.path).name) for p in (result.a, result.b))
    lines = [
        f"### {mark}{b} against {a}",
        "",
        text(sentence_of(result, limit)),
        "",
        f"**B/A {ratio_text(result.ratio)}** ({ratio_title(result)})",
        "",
        "| | A | B | B/A |",
        "|-|-:|-:|-:|",
        *(
            f"| {STATISTIC_TITLES[figure.statistic]} | {milliseconds(figure.a_us)} "
            f"| {milliseconds(figure.b_us)} | {figure.ratio:.3f} |"
            for figure in result.figures
        ),
    ]
    changed = [change for change in result.modules if change.changed]
    if changed:
        lines += [
            "",
            f"{len(changed)} of {plural(len(result.modules), 'module')} changed:",
            "",
            "| module | A | B | B/A |",
            "|-|-:|-:|-:|",
            *(
                f"| {code(change.module)} | {milliseconds(change.a_us)} "
                f"| {milliseconds(change.b_us)} | {module_ratio_text(change)} |"
                for change in changed[:_SHOWN]
            ),
        ]
    lines += ["", interval_text(result)]
    lines += ["", *(f"- {kind}: {text(sentence)}" for kind, sentence in remarks(result))]
    return "\n".join(lines).rstrip() + "\n"


def code(name: str) -> str:
    """``name`` as it is, whatever it holds: in a table, too, and without mentioning anybody."""
    shown = clean(name).replace("|", r"\|")
    ticks = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    padding = " " if "`" in shown else ""
    return f"{ticks}{padding}{shown}{padding}{ticks}"


def text(sentence: str) -> str:
    """``sentence`` without what Markdown or HTML would make of it."""
    return re.sub(r"([\\`*_\[\]<>|~#&@])", r"\\\1", clean(sentence))
