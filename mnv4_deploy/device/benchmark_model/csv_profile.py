"""Operator times of the report that benchmark_model writes as CSV."""

from __future__ import annotations

import math

from mnv4_deploy.device.benchmark_model.records import OpRow, OpTable, not_understood
from mnv4_deploy.device.benchmark_model.sections import Lines, read_report

_MS = 1000.0
_COLUMNS = ("node type", "first", "avg_ms", "%", "cdf%", "mem KB", "times called", "name")
_OLD_COLUMNS = ("node type", "start", *_COLUMNS[1:])


def parse_csv(text: str) -> OpTable:
    """The operators of the runs in the tool's CSV file.

    Nothing is quoted in it: commas of a type stay as they are, those of a name are tabs
    (StatsCalculator::ColumnString in TensorFlow's ``xla/tsl/util/stats_calculator.cc``). Times
    have six digits. Raises ToolchainError for other forms, naming the line.
    """
    report = read_report(text)
    return OpTable(_rows(report.main), _rows(report.internal), report.subgraphs)


def _rows(table: Lines) -> tuple[OpRow, ...]:
    if not table.rows:
        return ()
    columns = tuple(part.strip() for part in table.heading.split(","))
    if columns not in (_COLUMNS, _OLD_COLUMNS):
        raise not_understood(table.heading)
    return tuple(_row(line, columns) for line in table.rows)


def _row(line: str, columns: tuple[str, ...]) -> OpRow:
    fields = dict(zip(columns, line.rsplit(",", len(columns) - 1), strict=False))
    try:
        kind, name = fields["node type"].strip(), fields["name"].strip().replace("\t", ",")
        avg_us, called = float(fields["avg_ms"]) * _MS, int(fields["times called"])
    except (KeyError, ValueError):
        raise not_understood(line) from None
    if not kind or not name or not math.isfinite(avg_us):
        raise not_understood(line)
    return OpRow(kind, name, avg_us, called)
