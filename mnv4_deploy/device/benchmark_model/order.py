"""The operators of one run in the order in which they ran, from rows by name.

The tool keeps one row a name. XNNPACK numbers its operators from 0 in every delegated partition,
so operators of different partitions can share a name: their times are added up in the row of
the first, and which of them ran when has to be found again.
"""

from __future__ import annotations

from collections.abc import Sequence

from mnv4_deploy.device.benchmark_model.records import OpRow, OpTable


def in_run_order(table: OpTable) -> tuple[OpRow, ...] | None:
    """Each row as often as it ran in one run; None where the order cannot be told.

    "Run Order" tables are sorted as text by the number of rows less the place in the run
    (StatsCalculator::OrderNodesByMetric in TensorFlow's ``xla/tsl/util/stats_calculator.cc``),
    which is right until the place exceeds the number of rows. So without ``run_order`` only a
    table with one call a row is in order.
    """
    rows = _with_internal(table)
    if rows is None or any(row.times_called < 1 for row in rows):
        return None
    once = all(row.times_called == 1 for row in rows)
    if any(row.run_order is None for row in rows):
        return tuple(rows) if once and not table.subgraphs else None
    ordered = sorted(rows, key=_place)
    if once:
        return tuple(ordered)
    # Operators of other graphs would take places that nothing accounts for here.
    return None if table.subgraphs else _with_repetitions(ordered)


def _place(row: OpRow) -> int:
    return row.run_order if row.run_order is not None else -1


def _with_internal(table: OpTable) -> list[OpRow] | None:
    """The rows with those inside the delegate in place of the delegate's own."""
    rows = list(table.rows)
    kernels = [i for i, row in enumerate(rows) if row.kind == "delegate kernel"]
    if not kernels:
        return rows
    if not table.internal or len(kernels) > 1:
        return None
    if len(rows) > 1 and rows[0].run_order is None:
        return None  # the kernel's place among the others is one that exceeds their number
    at = kernels[0]
    return [*rows[:at], *table.internal, *rows[at + 1 :]]


def _with_repetitions(rows: Sequence[OpRow]) -> tuple[OpRow, ...] | None:
    """All calls of a run: first calls where ``run_order`` has them, later ones in the gaps.

    In a gap goes the row with the number that follows. Where several have it, their partitions
    differ and nothing says which this one is.
    """
    places: list[OpRow | None] = [None] * sum(row.times_called for row in rows)
    for row in rows:
        at = _place(row)
        if not 0 <= at < len(places) or places[at] is not None:
            return None
        places[at] = row
    left = {row.name: row.times_called - 1 for row in rows}
    expected = 0
    for at, known in enumerate(places):
        found = known or _only_repeated(rows, left, at, expected)
        if found is None or (found.kind == "delegated" and found.number not in (expected, 0)):
            return None
        if known is None:
            left[found.name] -= 1
        places[at] = found
        expected = (
            found.number + 1 if found.kind == "delegated" and found.number is not None else 0
        )
    return tuple(row for row in places if row is not None)


def _only_repeated(
    rows: Sequence[OpRow], left: dict[str, int], at: int, number: int
) -> OpRow | None:
    """The only row that can run again at ``at`` as operator ``number`` of a partition."""
    fitting = [
        row
        for row in rows
        if left[row.name] and row.kind == "delegated" and row.number == number
        if _place(row) < at
    ]
    return fitting[0] if len(fitting) == 1 else None
