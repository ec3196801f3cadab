"""A drift on the terminal: what it cost, which layers did it, and why."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape

from mnv4_deploy.drift.records import DriftResult
from mnv4_deploy.layers.records import Agreement, LayerDrift, LayersDrift
from mnv4_deploy.reports.drift.words import (
    device_text,
    drop_text,
    gain_sentence,
    measured_text,
    parity_sentences,
    ranking_title,
    subject_sentence,
    together_sentence,
    trial_sentence,
)
from mnv4_deploy.sessions.records import ModelRef
from mnv4_deploy.tasks.report import Comparison, Measured
from mnv4_deploy.terminal.profile import console_for
from mnv4_deploy.terminal.tables import Column, print_table, short
from mnv4_deploy.text import clean, plural

_SKIPPED = 5
_CAUSES = 5
_NAME_WIDTH = 34


def print_drift(result: DriftResult, *, top: int = 10, console: Console | None = None) -> None:
    """The headline, the ``top`` most damaged layers (0: all) and the causes found."""
    console = console or console_for()
    report = result.task.report(result.output, (result.reference, result.candidate))
    console.print()
    for role, subject in (("reference", result.reference), ("candidate", result.candidate)):
        console.print(f"{role}  [bold]{_text(subject.name)}[/]  {_about(subject)}")
    if result.device is not None:
        about = _text(device_text(result.device, result.device_runtimes))
        console.print(f"device     [bold]{_text(result.device.title)}[/]  {about}")
    console.print(f"images     {_images(result)}\n")
    if report.comparisons:
        _print_comparisons(report.comparisons, console)
    sentences = (report.headline, *report.sentences, report.missing)
    for line in filter(None, sentences):
        console.print(_text(line))
    if result.parity:
        console.print()
    for line in parity_sentences(result):
        console.print(_text(line))
    if result.layers is not None:
        _print_layers(result.layers, top, console)
    for line in _remarks(result):
        console.print(line)


def _text(name: str) -> str:
    """A name from a file as it is to be read: no markup, and nothing that is not seen."""
    return escape(clean(name))


def _about(subject: ModelRef) -> str:
    weights = f", weights {subject.source.weights}" if subject.source else ""
    return _text(
        f"{subject_sentence(subject)}, preprocessing from {subject.preprocessing_from}{weights}"
    )


def _images(result: DriftResult) -> str:
    output = result.output
    labels = "labelled" if output.labelled == output.images else f"{output.labelled:,} labelled"
    resumed = f", {result.resumed_images:,} from an earlier run" if result.resumed_images else ""
    where = "on the device" if result.device is not None else plural(result.workers, "worker")
    rate = "" if result.rate is None else f", {result.rate:.0f} images/s"
    return f"{output.images:,} ({_text(result.data)}, {labels}), {where}{rate}{resumed}"


def _print_comparisons(comparisons: Iterable[Comparison], console: Console) -> None:
    figures = map(Column, ("reference", "candidate", "drop"))
    rows = [
        (
            clean(row.name),
            _measured(row.reference, row.unit),
            _measured(row.candidate, row.unit),
            drop_text(row),
            clean(row.note),
        )
        for row in comparisons
    ]
    print_table(console, (Column.whole(""), *figures, Column.whole("")), rows)


def _measured(measured: Measured | None, unit: str) -> str:
    return "" if measured is None else clean(measured_text(measured, unit))


def _print_layers(layers: LayersDrift, top: int, console: Console) -> None:
    rows = layers.most_damaged(top or len(layers.layers))
    console.print(
        f"\nMost damaged of {len(layers.layers)} layers, by the noise each adds on its own "
        f"({plural(layers.images, 'image')})",
    )
    print_table(
        console,
        (
            *(Column.name("layer", _NAME_WIDTH), Column.text("kind", 18), Column.text("type", 8)),
            *map(Column, ("isolated", "accum.", "range", "clipped")),
            Column.text("cause"),
        ),
        [
            (
                clean(layer.module or layer.tensor),
                clean(layer.kind),
                clean(layer.compute),
                _decibels(layer.isolated),
                _decibels(layer.accumulated),
                *_range(layer),
                "" if layer.cause is None else layer.cause.kind,
            )
            for layer in rows
        ],
    )
    console.print(
        "[dim]isolated: SQNR in dB of this layer on the reference's inputs; accum.: accumulated "
        "through the network; range: how much of the int8 range is used.[/]",
    )
    console.print(f"\n[bold]{_text(ranking_title(layers))}[/]")
    for place, entry in enumerate(layers.ranking[:_CAUSES], 1):
        console.print(
            f"{place}. [bold]{_text(entry.module)}[/]: {_text(entry.cause.kind)}. "
            f"{_text(entry.cause.sentence)} "
            f"{_text(gain_sentence(layers, entry) + trial_sentence(entry) + entry.cause.advice)}",
        )
    if together := together_sentence(layers):
        console.print(_text(together))


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
        colour = "green" if limit.state == "kept" else "red"
        found = f"({limit.metric} is {limit.value:g})"
        yield f"[{colour}]{limit.state}[/]  {_text(limit.text)}  {found}"
