"""One self-contained page about a drift: opens anywhere, asks no network for anything."""

from __future__ import annotations

from itertools import islice

from mnv4_deploy.drift.records import DriftResult
from mnv4_deploy.layers.records import LayersDrift
from mnv4_deploy.reports.drift import channel_chart, comparison_chart, layer_table, network_chart
from mnv4_deploy.reports.drift.drift_json import file_name
from mnv4_deploy.reports.drift.thumbnails import SIZE, thumbnail
from mnv4_deploy.reports.drift.words import (
    device_text,
    drop_text,
    gain_sentence,
    measured_sentence,
    measured_text,
    parity_sentences,
    ranking_title,
    subject_sentence,
    tensors_text,
    together_sentence,
    trial_sentence,
)
from mnv4_deploy.reports.page import render_page, resource
from mnv4_deploy.sessions.records import ModelRef
from mnv4_deploy.text import plural
from mnv4_deploy.versions import tool_versions

_CHANNEL_CARDS = 6
_SQNR = ("SQNR", "10 log10 of signal over noise power, in dB; 200 dB stands for no difference")
Facts = list[tuple[str, str]]


def report_page(result: DriftResult) -> str:
    """The page, complete. Without scripts it shows the same, but for sorting and search."""
    layers, device = result.layers, result.device
    report = result.task.report(result.output, (result.reference, result.candidate))
    return render_page(
        "drift/page.html.j2",
        title=f"Drift of {result.candidate.name}",
        style=resource("drift/drift.css"),
        scripts=[f"{resource('drift/drift.js')}\n{resource('page.js')}"],
        result=result,
        report=report,
        subject_sentence=subject_sentence,
        measured=measured_sentence(result),
        device=device_text(device, result.device_runtimes) if device else "",
        parity=parity_sentences(result),
        differs=any(agreement.differing for agreement in result.parity),
        comparisons=comparison_chart,
        drop_text=drop_text,
        gain_sentence=gain_sentence,
        ranking_title=ranking_title,
        together_sentence=together_sentence,
        trial_sentence=trial_sentence,
        measured_text=measured_text,
        network=network_chart,
        channels=channel_chart,
        channel_cards=_channel_cards(layers) if layers else (),
        table=layer_table,
        thumbnail=thumbnail,
        thumbnail_size=SIZE,
        facts=(
            ("Reference", _subject_facts(result.reference)),
            ("Candidate", _subject_facts(result.candidate)),
            ("Run", [*_run_facts(result), *report.methods, _SQNR]),
            ("Versions", list(tool_versions().items())),
        ),
    )


def _channel_cards(layers: LayersDrift) -> tuple[object, ...]:
    """The most damaged layers that have charts of their channels, each with these."""
    ranked = layers.most_damaged(len(layers.layers))
    charted = ((layer, tuple(channel_chart.channel_charts(layer))) for layer in ranked)
    return tuple(islice((card for card in charted if card[1]), _CHANNEL_CARDS))


def _subject_facts(subject: ModelRef) -> Facts:
    spec = subject.preprocessing
    facts = [("Name", subject.name)]
    if subject.path:
        facts.append(("File", file_name(subject.path)))
    if subject.source:
        facts.append(("Model", file_name(subject.source.name)))
        facts.append(("Weights", file_name(subject.source.weights)))
    facts += [("Size", f"{subject.size_bytes:,} bytes"), ("SHA-256", subject.sha256)]
    if subject.num_classes:
        facts.append(("Classes", f"{subject.num_classes:,}"))
    if subject.inputs:
        facts.append(("Inputs", tensors_text(subject.inputs)))
    if subject.outputs:
        facts.append(("Outputs", tensors_text(subject.outputs)))
    facts += [
        ("Images", f"{spec.height} x {spec.width} pixels"),
        ("Mean", ", ".join(f"{value:g}" for value in spec.mean)),
        ("Standard deviation", ", ".join(f"{value:g}" for value in spec.std)),
        ("Crop", f"centre {100 * spec.crop_pct:g} % of the shorter side, {spec.interpolation}"),
        ("Preprocessing from", subject.preprocessing_from),
    ]
    if subject.calibration_sha256:
        facts.append(("Calibrated on", plural(len(subject.calibration_sha256), "image")))
    return facts


def _run_facts(result: DriftResult) -> Facts:
    output = result.output
    rate = "" if result.rate is None else f", {result.rate:.1f} images/s"
    facts = [
        ("Task", result.task.name),
        ("Images", f"{output.images:,} of {result.data}"),
        ("Labelled", f"{output.labelled:,}"),
        ("Skipped", f"{len(result.skipped):,}"),
        _place_fact(result),
        ("Time", f"{result.seconds:.1f} s{rate}"),
    ]
    if result.resumed_images:
        facts.append(("Kept from an earlier run", f"{result.resumed_images:,} images"))
    return facts


def _place_fact(result: DriftResult) -> tuple[str, str]:
    if result.device is not None:
        return "Device", f"{result.device.title}, {', '.join(result.device_runtimes)}"
    return "Worker processes", str(result.workers)
