"""Finds the operators of the benchmark runs in the tool's report, a text or a CSV file.

The report is that of ProfileSummaryDefaultFormatter (LiteRT's
``tflite/profiling/profile_summary_formatter.cc``): what ran while the model was loaded, then the
runs; in each a part for every graph, and in older tools one for the inside of delegates. A part
has the table "Run Order" and others with the same rows, which are left out here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from mnv4_deploy.errors import ToolchainError

_RUNS = "Operator-wise Profiling Info for Regular Benchmark Runs:"
_TITLE = re.compile(r"=+ (?P<title>.+?) =+")
_SUBGRAPH = re.compile(r"Subgraph \(index: \d+.*\) profile:")
_PREFIX = re.compile(r"^(?:INFO: )?")


@dataclass(frozen=True)
class Lines:
    """The heading and the rows of a table as they are printed."""

    heading: str = ""
    rows: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    main: Lines
    internal: Lines
    subgraphs: bool


def read_report(text: str) -> Report:
    """The "Run Order" tables of ``text``; ToolchainError where there is none."""
    _, found, runs = text.partition(_RUNS)
    parts: dict[str, Lines] = {}
    part = "main"
    # Names may hold what Python, but not the tool, takes for the end of a line.
    lines = iter(runs.split("\n"))
    for line in lines:
        stripped = _PREFIX.sub("", line).strip()
        title = _TITLE.fullmatch(stripped)
        if stripped.startswith("Primary graph"):
            part = "main"
        elif stripped.startswith("Delegate internal:"):
            part = "internal"
        elif _SUBGRAPH.fullmatch(stripped):
            part = "subgraph"
        elif title and title["title"] == "Run Order":
            parts.setdefault(part, _table(lines))
    if not found or not parts.get("main", Lines()).rows:
        raise ToolchainError(
            "benchmark_model gave no table of operators: use a build with operator profiling."
        )
    return Report(parts["main"], parts.get("internal", Lines()), "subgraph" in parts)


def _table(lines: Iterator[str]) -> Lines:
    heading = next(lines, "")
    rows = []
    for line in lines:
        if not line.strip():
            break
        rows.append(line)
    return Lines(heading, tuple(rows))
