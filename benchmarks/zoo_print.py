"""The table of the zoo in Markdown, what lies behind it, and how its goals stand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from measure_pairs import detailed, op_histogram_changes
from rich import box
from rich.console import Console
from rich.table import Table
from stock_vs_ours import breakdown
from this_cpu import this_cpu
from zoo_build import progress
from zoo_files import FileRecord
from zoo_goals import SLOWER_RULE, Goal
from zoo_rows import Row

_NONE = "–"
_NAMES = {"tflite": "TFLite", "onnx": "ONNX", "float32": "fp32", "int8": "int8"}
_PROFILED_RUNS = 10


def cells(row: Row) -> list[str]:
    stock, ours, tflite = row.stock_file, row.ours, row.key.format == "tflite"
    stock_ms = ours_ms = ratio = _NONE
    if row.races:
        first = row.races[0]
        stock_ms = f"{first.stock.median_us / 1e3:.2f} {first.form}".rstrip()
        ours_ms = f"{first.ours.median_us / 1e3:.2f}"
        low, high = first.quartiles
        ratio = f"{first.ratio:.3f} [{low:.3f}-{high:.3f}]"
    elif row.alone is not None:
        alone_ms = f"{row.alone.median_us / 1e3:.2f}"
        stock_ms, ours_ms = (_NONE, alone_ms) if ours.path else (alone_ms, _NONE)
    return [
        row.key.model,
        f"{_NAMES[row.key.dtype]} {_NAMES[row.key.format]}",
        " / ".join("yes" if file.path else "no" for file in (stock, ours)),
        _arrow(stock.partitions, ours.partitions) if tflite else _NONE,
        _arrow(_count(stock), _count(ours)) if tflite else _NONE,
        f"{_quality(stock)} / {_quality(ours)}",
        stock_ms,
        ours_ms,
        ratio,
    ]


def _arrow(stock: int | None, ours: int | None) -> str:
    before, after = (_NONE if value is None else str(value) for value in (stock, ours))
    return f"{before} → {after}"


def _count(file: FileRecord) -> int | None:
    return None if file.outside is None else sum(file.outside.values())


def _quality(file: FileRecord) -> str:
    if file.error is not None:
        against = "*" if file.against != "PyTorch" else ""
        return f"{file.error:.1e}{against}{'' if file.close else ' (!)'}"
    return _NONE if file.sqnr_db is None else f"{file.sqnr_db:.1f} dB"


def overview(found: Sequence[Row]) -> Table:
    table = Table(box=box.MARKDOWN)
    for heading in ("model", "file", "exports", "partitions", "ops outside"):
        table.add_column(heading, no_wrap=True)
    for heading in ("error or SQNR", "ms stock", "ms ours", "ours / stock"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in found:
        table.add_row(*cells(row))
    return table


LEGEND = f"""\
Pairs are stock / ours or stock → ours. fp32: worst error over the images, relative to each one's
largest output of PyTorch (*: of PyTorch in float64, where float32 itself is off by more than the
tolerance; !: outside the tolerance). int8: median SQNR over the images against the fp32 file of
the same side. ours / stock: median over rounds [quartiles].
{SLOWER_RULE}."""


def failures(found: Sequence[Row]) -> Iterator[str]:
    """A line for every file that does not exist, with the reason."""
    for row in found:
        name = f"{row.key.model} {_NAMES[row.key.dtype]} {_NAMES[row.key.format]}"
        stock = [(f"stock {form}".rstrip(), file) for form, file in row.stock]
        for side, file in (*stock, ("ours", row.ours)):
            if file.failure:
                yield f"{name}, {side}: no, {file.failure}"


def again(found: Sequence[Row]) -> Iterator[str]:
    """A line for every comparison that looked slower at first."""
    for row in found:
        if len(row.races) > 1:
            first, second = (f"{session.ratio:.3f}" for session in row.sessions)
            verdict = "slower" if row.sessions[1].looks_slower else "not slower"
            yield f"{' '.join(row.key)}: {first}, again {second}: {verdict}"


def print_all(found: Sequence[Row], reached: Sequence[Goal], kernels: int) -> None:
    # Tables go to files and pipes as well, which have no width.
    console = Console(width=max(Console().width, 170), highlight=False, markup=False)
    console.print(overview(found))
    for line in (this_cpu(), LEGEND, *failures(found), *again(found)):
        console.print(line)
    console.print()
    words = {True: "met", False: "missed", None: "not measured"}
    for goal in reached:
        console.print(f"{words[goal.met]}: {goal.name}: {goal.value}")
    by_key = {row.key: row for row in found}
    for key in dict.fromkeys(key for goal in reached for key in goal.missed_by):
        row = by_key[key]
        assert row.pair is not None
        progress(f"{' '.join(key)}: profiling")
        comparison = detailed(row.pair, row.races[0], _PROFILED_RUNS)
        console.print()
        console.print(breakdown(comparison, kernels))
        console.print(f"operators: {op_histogram_changes(comparison)}")
