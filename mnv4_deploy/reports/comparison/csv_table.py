"""A comparison as CSV: the model by several statistics, then its modules."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from typing import TextIO

from mnv4_deploy.profiles.roofline.comparison import STATISTIC, Comparison, Ratio
from mnv4_deploy.text import cell_text

COLUMNS = (
    *("what", "name", "statistic", "a_us", "b_us", "difference_us", "ratio", "low", "high"),
    *("changed", "a_operators", "b_operators"),
)
Cell = str | float | None


def write_csv(result: Comparison, stream: TextIO) -> None:
    """Write one row for each statistic of the model, one for its ratio, which alone has an
    interval, and one for each module; an empty cell is a figure that is not known.

    Open files with ``newline=""`` and UTF-8. No cell is a formula to a spreadsheet.
    """
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in _rows(result):
        writer.writerow([cell_text(cell) if isinstance(cell, str) else cell for cell in row])


def _rows(result: Comparison) -> Iterator[tuple[Cell, ...]]:
    for figure in result.figures:
        times = (figure.a_us, figure.b_us, figure.b_us - figure.a_us, figure.ratio)
        yield ("model", "", figure.statistic, *times)
    yield ("model", "", f"{STATISTIC} of sessions", None, None, None, *_ends(result.ratio))
    for change in result.modules:
        yield (
            *("module", change.module, STATISTIC),
            *(change.a_us, change.b_us, change.difference_us),
            *(_ends(change.ratio) if change.ratio else (None, None, None)),
            "yes" if change.changed else "no",
            *(" ".join(types) for types in (change.a_op_types, change.b_op_types)),
        )


def _ends(ratio: Ratio) -> tuple[Cell, ...]:
    known = math.isfinite(ratio.high)
    return ratio.value, ratio.low if known else None, ratio.high if known else None
