"""A drift on the terminal: what it cost, which layers did it, and why."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mnv4_deploy.drift.records import DriftResult
from mnv4_deploy.layers.records import Agreement, LayerDrift, LayersDrift
from mnv4_deploy.reports.drift.words import SIGNIFICANT, device_text, parity_sentences
from mnv4_deploy.sessions.records import ModelRef
from mnv4_deploy.tasks.classification.records import Accuracy, Flips, OutputDrift, Proportion
from mnv4_deploy.terminal.profile import console_for, short
from mnv4_deploy.text import clean, plural

_SKIPPED = 5
_CAUSES = 5
_NAME_WIDTH = 34
_MEGA = 1e6


def print_drift(result: DriftResult, *, top: int = 10, console: Console | None = None) -> None:
    """The headline, the ``top`` most damaged layers (0: all) and the causes found."""
    console = console or console_for()
    console.print()
    for role, subject in (("reference", result.reference), ("candidate", result.candidate)):
        console.print(f"{role}  [bold]{_text(subject.name)}[/]  {_about(subject)}")
    if result.device is not None:
        about = _text(device_text(result.device, result.device_runtimes))
        console.print(f"device     [bold]{_text(result.device.title)}[/]  {about}", soft_wrap=True)
    console.print(f"images     {_images(result)}\n", soft_wrap=True)
    console.print(_accuracy_table(result.output))
    for line in _outputs(result.output):
        console.print(line, soft_wrap=True)
    if result.parity:
        console.print()
    for line in parity_sentences(result):
        console.print(_text(line), soft_wrap=True)
    if result.layers is not None:
        _print_layers(result.layers, top, console)
    for line in _remarks(result):
        console.print(line, soft_wrap=True)


def _text(name: str) -> str:
    """A name from a file as it is to be read: no markup, and nothing that is not seen."""
    return escape(clean(name))


def _about(subject: ModelRef) -> str:
    spec = subject.preprocessing
    weights = f", weights {_text(subject.weights)}" if subject.weights else ""
    return (
        f"{subject.size_bytes / _MEGA:.1f} MB, {spec.height}x{spec.width}, "
        f"{plural(subject.num_classes, 'output')}, preprocessing from "
        f"{_text(subject.preprocessing_from)}{weights}"
    )


def _images(result: DriftResult) -> str:
    output = result.output
    labels = "labelled" if output.labelled == output.images else f"{output.labelled:,} labelled"
    resumed = f", {result.resumed_images:,} from an earlier run" if result.resumed_images else ""
    where = "on the device" if result.device is not None else plural(result.workers, "worker")
    rate = "" if result.rate is None else f", {result.rate:.0f} images/s"
    return f"{output.images:,} ({_text(result.data)}, {labels}), {where}{rate}{resumed}"


def _accuracy_table(output: OutputDrift) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for column in ("reference", "candidate", "drop"):
        table.add_column(column, justify="right")
    table.add_column("")
    if output.reference is not None and output.candidate is not None:
        table.add_row(
            "top-1",
            _percent(output.reference.top1),
            _percent(output.candidate.top1),
            f"{output.top1_drop:.2f}",
            f"points, 95 % interval {output.top1_drop_low:.2f} to {output.top1_drop_high:.2f}",
        )
        _add_top5(table, output.reference, output.candidate, output.top5_drop)
    table.add_row("agreement", "", _percent(output.agreement), "", "the same class as reference")
    return table


def _add_top5(table: Table, reference: Accuracy, candidate: Accuracy, drop: float | None) -> None:
    if reference.top5 is not None and candidate.top5 is not None and drop is not None:
        table.add_row(
            "top-5", _percent(reference.top5), _percent(candidate.top5), f"{drop:.2f}", "points"
        )


def _percent(share: Proportion) -> str:
    return f"{share.percent:.1f} % ({share.low_percent:.1f}-{share.high_percent:.1f})"


def _outputs(output: OutputDrift) -> Iterable[str]:
    if output.flips is not None:
        yield _flips(output.flips)
    yield (
        f"Outputs: SQNR {output.median_sqnr_db:.1f} dB (median image; {output.sqnr_db:.1f} dB "
        f"over all), cosine {output.cosine:.4f}, KL {output.kl:.4f} nats."
    )


def _flips(flips: Flips) -> str:
    sure = flips.p_value < SIGNIFICANT
    verdict = "more than chance" if sure else "could be chance"
    return (
        f"{flips.lost} answers became wrong, {flips.gained} became right: {verdict} (McNemar's "
        f"exact test, p = {flips.p_value:.2g})."
    )


def _print_layers(layers: LayersDrift, top: int, console: Console) -> None:
    rows = layers.most_damaged(top or len(layers.layers))
    console.print(
        f"\nMost damaged of {len(layers.layers)} layers, by the noise each adds on its own "
        f"({plural(layers.images, 'image')})",
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("layer", "kind", "type"):
        table.add_column(column, no_wrap=True)
    for column in ("alone", "so far", "range", "clipped"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("cause", no_wrap=True)
    for layer in rows:
        table.add_row(
            _text(short(layer.module or layer.tensor, _NAME_WIDTH)),
            _text(short(layer.kind, 18)),
            _text(short(layer.compute, 8)),
            _decibels(layer.isolated),
            _decibels(layer.accumulated),
            *_range(layer),
            "" if layer.cause is None else layer.cause.kind,
        )
    console.print(table)
    console.print(
        "[dim]alone: SQNR in dB of this layer on the reference's inputs; so far: through the "
        "network; range: how much of the int8 range is used.[/]",
        soft_wrap=True,
    )
    if layers.ranking:
        console.print("\n[bold]What it comes from, worst first[/]")
    for place, entry in enumerate(layers.ranking[:_CAUSES], 1):
        console.print(
            f"{place}. [bold]{_text(entry.module)}[/]: {_text(entry.cause.kind)}. "
            f"{_text(entry.cause.sentence)} {_text(entry.cause.advice)}",
            soft_wrap=True,
        )


def _decibels(agreement: Agreement | None) -> str:
    return "–" if agreement is None else f"{agreement.sqnr_db:.1f}"


def _range(layer: LayerDrift) -> tuple[str, str]:
    if layer.output is None:
        return "", ""
    return f"{layer.output.used_percent:.0f} %", f"{layer.output.clipped_percent:.2f} %"


def _remarks(result: DriftResult) -> Iterable[str]:
    layers = result.layers
    if layers is not None and layers.unmatched:
        few = ", ".join(_text(short(name)) for name in layers.unmatched[:3])
        yield f"{plural(len(layers.unmatched), 'layer')} without a counterpart: {few}."
    notes = (*result.reference.notes, *result.candidate.notes, *result.notes)
    for note in (*notes, *(layers.notes if layers is not None else ())):
        yield f"note: {_text(note)}"
    for image in result.skipped[:_SKIPPED]:
        yield f"[yellow]skipped[/] {_text(image.name)}: {_text(image.reason)}"
    if len(result.skipped) > _SKIPPED:
        yield f"[yellow]skipped[/] {len(result.skipped) - _SKIPPED} more images"
    for limit in result.limits:
        colour, word = ("red", "exceeded") if limit.exceeded else ("green", "kept")
        yield f"[{colour}]{word}[/]  {_text(limit.text)}  ({limit.metric} is {limit.value:g})"
