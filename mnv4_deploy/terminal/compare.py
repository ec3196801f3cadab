"""A comparison of two files and a predicted profile, on the terminal and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape

from mnv4_deploy.profiles.roofline.comparison import (
    CONFIDENCE_PERCENT,
    Comparison,
    ModuleChange,
    Ratio,
)
from mnv4_deploy.profiles.roofline.prediction import FilePrediction
from mnv4_deploy.terminal.profile import console_for
from mnv4_deploy.terminal.tables import Column, print_table
from mnv4_deploy.text import NO_OPERATOR_TIMES, clean

SCHEMA_VERSION = 2
_MILLI = 1e3
_MEGA = 1e6


def print_comparison(result: Comparison, *, top: int = 15, console: Console | None = None) -> None:
    console = console or console_for()
    a, b = result.a, result.b
    for letter, profile in (("A", a), ("B", b)):
        console.print(
            f"{letter}  [bold]{profile.trust.wall_us / _MILLI:8.2f} ms[/]  "
            f"{escape(profile.measurement.path)}  [dim]{escape(profile.measurement.runtime)}[/]",
        )
    console.print(f"B/A [bold]{_ratio(result.ratio)}[/]\n")
    if not result.modules:
        console.print(NO_OPERATOR_TIMES)
    else:
        _print_modules(result, top, console)
    for letter, profile in (("A", a), ("B", b)):
        for warning in profile.trust.warnings:
            console.print(f"[yellow]warning:[/] {letter}: {escape(warning)}")
        for note in profile.measurement.notes:
            console.print(f"[yellow]note:[/] {letter}: {escape(clean(note))}")


def _print_modules(result: Comparison, top: int, console: Console) -> None:
    a, b = result.a, result.b
    shown = result.modules if top == 0 else result.modules[:top]
    rows: list[tuple[str, ...]] = [
        (
            change.module,
            f"{change.a_us / _MILLI:.3f}",
            f"{change.b_us / _MILLI:.3f}",
            f"{change.difference_us / _MILLI:+.3f}",
            _module_ratio(change),
            _op_types(change),
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
        f"[dim]Intervals: {CONFIDENCE_PERCENT} %, bootstrap over "
        f"{len(a.measurement.rounds_us)} rounds in turns.[/]",
    )


def _sum_row(what: str, a_us: float, b_us: float) -> tuple[str, ...]:
    figures = (f"{a_us / _MILLI:.3f}", f"{b_us / _MILLI:.3f}", f"{(b_us - a_us) / _MILLI:+.3f}")
    return (what, *figures, "", "")


def _ratio(ratio: Ratio) -> str:
    return f"{ratio.value:.3f} [{ratio.low:.3f}-{ratio.high:.3f}]".replace("[", r"\[")


def _module_ratio(change: ModuleChange) -> str:
    if change.ratio is None:
        return "only B" if change.b_us else "only A"
    return f"{change.ratio.value:.2f} [{change.ratio.low:.2f}-{change.ratio.high:.2f}]"


def _op_types(change: ModuleChange) -> str:
    both = (change.a_op_types, change.b_op_types)
    a, b = (", ".join(dict.fromkeys(op_types)) for op_types in both)
    return a if a == b else f"{a or '–'} → {b or '–'}"


def comparison_to_dict(result: Comparison) -> dict[str, Any]:
    """Everything for ``--json``; the whole profiles under ``a`` and ``b``."""
    from mnv4_deploy.reports.profile.profile_json import profile_to_dict

    return {
        "schema_version": SCHEMA_VERSION,
        "ratio": asdict(result.ratio),
        "confidence_percent": CONFIDENCE_PERCENT,
        "joined_percent": result.joined_percent,
        "modules": [
            {**asdict(change), "difference_us": change.difference_us} for change in result.modules
        ],
        "a": profile_to_dict(result.a),
        "b": profile_to_dict(result.b),
    }


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
