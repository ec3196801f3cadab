"""Operator times of the report that benchmark_model prints."""

from __future__ import annotations

import re

from mnv4_deploy.device.benchmark_model.records import OpRow, OpTable, not_understood
from mnv4_deploy.device.benchmark_model.sections import Lines, read_report

_MS = 1000.0
_NUMBER = r"[-+]?(?:\d[\d.]*(?:e[-+]?\d+)?|nan|inf)"
# Columns of StatsCalculator::ColumnString (TensorFlow's xla/tsl/util/stats_calculator.cc). The
# type and the name may hold spaces; older tools have a column [start] before [first].
_ROW = re.compile(
    rf"\s*(?P<type>\S.*?)\s+(?P<times>{_NUMBER}(?:\s+{_NUMBER})+)\s+{_NUMBER}%\s+{_NUMBER}%"
    rf"\s+{_NUMBER}\s+(?P<called>\d+)(?:\t|\s+)(?P<name>\S.*)"
)
_TIMES = {"[first]": 2, "[start]": 3}


def parse_text(text: str) -> OpTable:
    """The operators of the runs in what the tool printed.

    Times have a resolution of 1 us. Raises ToolchainError for other forms, naming the line.
    """
    report = read_report(text)
    return OpTable(_rows(report.main), _rows(report.internal), report.subgraphs)


def _rows(table: Lines) -> tuple[OpRow, ...]:
    if not table.rows:
        return ()
    if "[first]" not in table.heading or "[avg ms]" not in table.heading:
        raise not_understood(table.heading)
    count = _TIMES["[start]" if "[start]" in table.heading else "[first]"]
    return tuple(_row(line, count) for line in table.rows)


def _row(line: str, count: int) -> OpRow:
    match = _ROW.fullmatch(line)
    times = match["times"].split() if match else []
    if match is None or len(times) < count:
        raise not_understood(line)
    # More numbers than columns: the first of them are the end of the type.
    kind = " ".join([match["type"], *times[:-count]])
    return OpRow(kind, match["name"].strip(), float(times[-1]) * _MS, int(match["called"]))
