"""A comparison of two files and a predicted profile, on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from mnv4_deploy.profiles.roofline.comparison import STATISTIC, Comparison
from mnv4_deploy.profiles.roofline.prediction import FilePrediction
from mnv4_deploy.profiles.roofline.verdict import outcome_of, outcome_sentence, verdict_sentence
from mnv4_deploy.reports.comparison.words import (
    interval_text,
    module_ratio_text,
    operators_text,
    ratio_text,
    ratio_title,
    remarks,
)
from mnv4_deploy.terminal.profile import console_for
from mnv4_deploy.terminal.tables import Column, print_table
from mnv4_deploy.text import STATISTIC_TITLES

_MILLI = 1e3
_MEGA = 1e6


def print_comparison(
    result: Comparison,
    *,
    limit: float | None = None,
    top: int = 15,
    console: Console | None = None,
) -> None:
    """``limit`` is the most that B may take, in times of A's time."""
    console = console or console_for()
    for letter, profile in (("A", result.a), ("B", result.b)):
        console.print(
            f"{letter}  {escape(profile.measurement.path)}  "
            f"[dim]{escape(profile.measurement.runtime)}[/]",
        )
    print_table(
        console,
        (Column.text("wall time"), *map(Column, ("A ms", "B ms", "B/A"))),
        [
            (
                STATISTIC_TITLES[figure.statistic],
                f"{figure.a_us / _MILLI:.3f}",
                f"{figure.b_us / _MILLI:.3f}",
                f"{figure.ratio:.3f}",
            )
            for figure in result.figures
        ],
    )
    console.print(
        f"\nB/A [bold]{escape(ratio_text(result.ratio))}[/]  [dim]{ratio_title(result)}[/]",
    )
    console.print(f"[bold]{escape(verdict_sentence(result))}[/]")
    if limit is not None and outcome_of(result.ratio, limit) == "passed":
        console.print(escape(outcome_sentence(result, limit)))
    console.print()
    if result.modules:
        _print_modules(result, top, console)
    if not result.disturbed:
        console.print(f"[dim]{interval_text(result)}[/]")
    for kind, sentence in remarks(result):
        console.print(f"[yellow]{kind}:[/] {escape(sentence)}")


def _print_modules(result: Comparison, top: int, console: Console) -> None:
    a, b = result.a, result.b
    shown = result.modules if top == 0 else result.modules[:top]
    rows: list[tuple[str, ...]] = [
        (
            change.module,
            f"{change.a_us / _MILLI:.3f}",
            f"{change.b_us / _MILLI:.3f}",
            f"{change.difference_us / _MILLI:+.3f}",
            module_ratio_text(change),
            operators_text(change),
        )
        for change in shown
    ]
    rest = result.modules[len(shown) :]
    if rest:
        a_us, b_us = sum(m.a_us for m in rest), sum(m.b_us for m in rest)
        rows.append(_sum_row(f"{len(rest)} more modules", a_us, b_us))
    rows.append(_sum_row("(unattributed)", a.trust.unattributed_us, b.trust.unattributed_us))
    titles = ("A ms", "B ms", "B-A ms", "B/A")
    columns = (Column.name("module"), *map(Column, titles), Column.text("operators"))
    print_table(console, columns, rows, ["" if change.changed else "dim" for change in shown])
    changed = sum(change.changed for change in result.modules)
    console.print(
        f"\n{changed} of {len(result.modules)} modules changed (dim: not, or not surely). "
        f"{result.joined_percent:.0f} % of the layers' time is in modules of both files. "
        f"[dim]Times: {STATISTIC_TITLES[STATISTIC]} of the profiled runs.[/]",
    )


def _sum_row(what: str, a_us: float, b_us: float) -> tuple[str, ...]:
    figures = (f"{a_us / _MILLI:.3f}", f"{b_us / _MILLI:.3f}", f"{(b_us - a_us) / _MILLI:+.3f}")
    return (what, *figures, "", "")


def print_prediction(
    prediction: FilePrediction, *, top: int = 15, console: Console | None = None
) -> None:
    """A profile for a machine that is not here: shares and bounds, no measurement."""
    console = console or console_for()
    machine = prediction.machine
    console.print(
        f"\n[bold]{escape(prediction.path)}[/]  [bold yellow]prediction[/] for "
        f"{escape(machine.title)}, ridge point {machine.ridge_point:g} MACs/byte "
        f"({escape(machine.dtype)}; {escape(machine.source)})",
    )
    if prediction.latency_us is not None:
        console.print(f"Predicted latency [bold]{prediction.latency_us / _MILLI:.2f} ms[/]")
    console.print(
        f"ModelTime is {prediction.relative_time:.2f} times the time of its MACs alone; "
        f"{prediction.memory_bound_percent:.0f} % of it in layers bound by memory.\n",
    )
    layers = sorted(prediction.layers, key=lambda layer: -layer.share_percent)
    print_table(
        console,
        (
            *(Column.name("layer"), Column.text("kind", 18)),
            *map(Column, ("%", "MMAC", "MB", "OI", "bound")),
        ),
        [
            (
                layer.module or layer.name,
                layer.op_type,
                f"{layer.share_percent:.1f}",
                f"{layer.macs / _MEGA:.1f}",
                f"{layer.bytes / _MEGA:.2f}",
                f"{layer.macs / layer.bytes:.1f}" if layer.bytes else "",
                layer.bound,
            )
            for layer in (layers if top == 0 else layers[:top])
        ],
    )
    for note in prediction.notes:
        console.print(f"[yellow]note:[/] {escape(note)}")
