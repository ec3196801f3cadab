"""The way of one format to its accuracy budget, on the terminal. Text from files is escaped."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mnv4_deploy.exporters.records import Ladder, Rung, Sensitivity

_MEGA = 1e6
_US_PER_MS = 1000
_SHOWN_LAYERS = 5


def print_ladder(ladder: Ladder, console: Console) -> None:
    """What was tried, what was adopted or refused and why, and whether the budget was met."""
    console.print(f"\n[bold]{ladder.format}, at most {ladder.max_drop:g} points below float32[/]")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("rung", min_width=22)
    for title in ("drop", "agree", "SQNR", "time", "size"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("")
    for rung in ladder.rungs:
        table.add_row(
            escape(rung.name),
            f"{rung.top1_drop:+.2f}",
            f"{rung.agreement:.1f} %",
            f"{rung.median_sqnr_db:.1f} dB",
            f"x{rung.latency_ratio:.2f}",
            f"x{rung.size_ratio:.2f}",
            "[green]adopted[/]" if rung.adopted else f"[dim]refused: {escape(rung.reason)}[/]",
        )
    console.print(table)
    for sentence in _sentences(ladder):
        console.print(sentence, soft_wrap=True)


def _sentences(ladder: Ladder) -> Iterator[str]:
    first, chosen = ladder.rungs[0], ladder.chosen
    for missing in ladder.not_tried:
        yield f"not tried: {escape(missing.name)} ({escape(missing.reason.rstrip('.'))})"
    refused = [layer for layer in ladder.sensitivities if layer.reason]
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
        yield _bought(first, chosen)
    drop = f"{chosen.top1_drop:+.2f} points on {chosen.images} images ({100 / chosen.images:.2g} "
    if ladder.met:
        yield f"[green]Budget met[/] by {escape(chosen.name)}: {drop}each)."
    else:
        yield (
            f"[bold red]Budget not met[/]: the best file is {escape(chosen.name)}, {drop}each), "
            "and it is the one that was written."
        )


def _refused(layer: Sensitivity) -> str:
    return f"{escape(layer.module)} in {layer.precision} ({escape(layer.reason)})"


def _bought(first: Rung, chosen: Rung) -> str:
    added_ms = (chosen.latency_us - first.latency_us) / _US_PER_MS
    added_mb = (chosen.size_bytes - first.size_bytes) / _MEGA
    return (
        f"Recovered {first.top1_drop - chosen.top1_drop:.2f} points for {added_ms:+.2f} ms "
        f"(x{chosen.latency_ratio:.2f}) and {added_mb:+.2f} MB."
    )
