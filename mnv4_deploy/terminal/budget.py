"""The way of one format to its accuracy budget, on the terminal. Text from files is escaped."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape

from mnv4_deploy.exporters.records import BudgetSearch, Sensitivity, Trial
from mnv4_deploy.terminal.tables import Column, print_table

_MEGA = 1e6
_US_PER_MS = 1000
_SHOWN_LAYERS = 5


def print_budget(search: BudgetSearch, console: Console) -> None:
    """What was tried, what was adopted or refused and why, and whether the budget was met."""
    budget = _with_unit(f"{search.max_drop:g}", search)
    what = f"{search.metric}, its 95 % interval included," if search.confident else search.metric
    console.print(f"\n[bold]{search.format}: {what} at most {budget}[/]")
    rows = [
        (
            trial.name,
            _drop(trial, search),
            f"{trial.median_sqnr_db:.1f} dB",
            f"x{trial.latency_ratio:.2f}",
            f"x{trial.size_ratio:.2f}",
            "adopted" if trial.adopted else "refused",
        )
        for trial in search.trials
    ]
    figures = map(Column, ("drop", "SQNR", "time", "size"))
    columns = (Column.name("trial"), *figures, Column("", justify="left"))
    print_table(console, columns, rows, ["green" if t.adopted else "dim" for t in search.trials])
    # A line each: beside the figures a reason has no room.
    for trial in search.trials:
        if not trial.adopted:
            reason = f"{escape(trial.name)} refused: {escape(trial.reason)}"
            console.print(f"[dim]{reason}[/]")
    for sentence in _sentences(search):
        console.print(sentence)


def _sentences(search: BudgetSearch) -> Iterator[str]:
    first, chosen = search.trials[0], search.chosen
    for missing in search.not_tried:
        yield f"not tried: {escape(missing.name)} ({escape(missing.reason.rstrip('.'))})"
    refused = [layer for layer in search.sensitivities if layer.reason]
    if refused:
        named = "; ".join(map(_refused, refused[:_SHOWN_LAYERS]))
        more = f"; and {len(refused) - _SHOWN_LAYERS} more" if refused[_SHOWN_LAYERS:] else ""
        yield f"[dim]not worth it: {named}{more}[/]"
    if chosen.choice.correct_bias or chosen.choice.optimise_rounding:
        yield (
            "[dim]Corrected biases and rounded weights are not the float model's: the int8 file "
            "is judged by its accuracy.[/]"
        )
    if chosen.choice != first.choice:
        yield _bought(first, search)
    low, high = chosen.interval
    interval = f"95 % interval {low:.2f} to {high:.2f}"
    drop = f"{_drop(chosen, search)} on {chosen.images} images ({interval})"
    if search.met:
        yield f"[green]Budget met[/] by {escape(chosen.name)}: {drop}."
    else:
        yield (
            f"[bold red]Budget not met[/]: the best file is {escape(chosen.name)}, {drop}, "
            "and it is the one that was written."
        )


def _drop(trial: Trial, search: BudgetSearch) -> str:
    return _with_unit(f"{trial.drop:+.2f}", search)


def _with_unit(figure: str, search: BudgetSearch) -> str:
    return f"{figure} {search.unit}".rstrip()


def _refused(layer: Sensitivity) -> str:
    return f"{escape(layer.module)} in {layer.precision} ({escape(layer.reason)})"


def _bought(first: Trial, search: BudgetSearch) -> str:
    chosen = search.chosen
    recovered = _with_unit(f"{first.drop - chosen.drop:.2f}", search)
    added_ms = (chosen.latency_us - first.latency_us) / _US_PER_MS
    added_mb = (chosen.size_bytes - first.size_bytes) / _MEGA
    time = f"{added_ms:+.2f} ms (x{chosen.latency_ratio:.2f})"
    return f"Recovered {recovered} for {time} and {added_mb:+.2f} MB."
