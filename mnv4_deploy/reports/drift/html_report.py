"""One self-contained page about a drift: opens anywhere, asks no network for anything."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from importlib.resources import files
from string import Template

from mnv4_deploy.drift.records import DriftResult
from mnv4_deploy.reports.drift.drift_json import file_name
from mnv4_deploy.reports.drift.html_head import accuracy_section, header
from mnv4_deploy.reports.drift.html_layers import layer_sections, layer_table
from mnv4_deploy.reports.drift.images import image_sections
from mnv4_deploy.reports.markup import Markup, joined, tag, text
from mnv4_deploy.sessions.records import ModelRef
from mnv4_deploy.text import plural
from mnv4_deploy.versions import tool_versions


def report_page(result: DriftResult) -> str:
    """The page, complete. Without scripts it shows the same, but for sorting and search."""
    parts = files("mnv4_deploy.reports.drift")
    shared = files("mnv4_deploy.reports.profile")
    script = parts.joinpath("drift.js").read_text("utf-8")
    return Template(parts.joinpath("drift.html").read_text("utf-8")).substitute(
        title=text(f"Drift of {result.candidate.name}"),
        # The browser runs our script and no other, whatever a name should smuggle in.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        style=shared.joinpath("report.css").read_text("utf-8")
        + parts.joinpath("drift.css").read_text("utf-8"),
        header=header(result),
        main=tag("main", *_sections(result)),
        script=script,
    )


def _sections(result: DriftResult) -> Iterable[Markup]:
    yield accuracy_section(result)
    yield from layer_sections(result)
    yield from image_sections(result)
    if result.layers is not None and result.layers.layers:
        yield layer_table(result.layers)
    yield tag(
        "section",
        *(
            tag("div", tag("h2", title), _facts(facts))
            for title, facts in (
                ("Reference", _subject_facts(result.reference)),
                ("Candidate", _subject_facts(result.candidate)),
                ("Run", _run_facts(result)),
                ("Versions", list(tool_versions().items())),
            )
        ),
        class_="columns",
    )


def _facts(facts: Iterable[tuple[str, str]]) -> Markup:
    pairs = (joined((tag("dt", name), tag("dd", value or "–"))) for name, value in facts)
    return tag("dl", *pairs)


def _subject_facts(subject: ModelRef) -> list[tuple[str, str]]:
    spec = subject.preprocessing
    facts = [("Name", subject.name)]
    if subject.path:
        facts.append(("File", file_name(subject.path)))
    if subject.model:
        facts.append(("Model", subject.model))
    if subject.weights:
        facts.append(("Weights", file_name(subject.weights)))
    facts += [
        ("Size", f"{subject.size_bytes:,} bytes"),
        ("SHA-256", subject.sha256),
        ("Classes", f"{subject.num_classes:,}"),
        ("Input", f"{spec.height} x {spec.width} pixels"),
        ("Mean", ", ".join(f"{value:g}" for value in spec.mean)),
        ("Standard deviation", ", ".join(f"{value:g}" for value in spec.std)),
        ("Crop", f"centre {100 * spec.crop_pct:g} % of the shorter side, {spec.interpolation}"),
        ("Preprocessing from", subject.preprocessing_from),
    ]
    if subject.calibration_sha256:
        facts.append(("Calibrated on", plural(len(subject.calibration_sha256), "image")))
    return facts


def _place_fact(result: DriftResult) -> tuple[str, str]:
    if result.device is not None:
        return "Device", f"{result.device.title}, {', '.join(result.device_runtimes)}"
    return "Worker processes", str(result.workers)


def _run_facts(result: DriftResult) -> list[tuple[str, str]]:
    output = result.output
    rate = "" if result.rate is None else f", {result.rate:.1f} images/s"
    facts = [
        ("Images", f"{output.images:,} of {result.data}"),
        ("Labelled", f"{output.labelled:,}"),
        ("Skipped", f"{len(result.skipped):,}"),
        _place_fact(result),
        ("Time", f"{result.seconds:.1f} s{rate}"),
    ]
    if result.resumed_images:
        facts.append(("Kept from an earlier run", f"{result.resumed_images:,} images"))
    facts += [
        ("Intervals", "95 %: Wilson's of one accuracy, Newcombe's (method 10) of the difference"),
        ("Test", "McNemar's exact test (two-sided binomial) of the answers that flipped"),
        ("SQNR", "10 log10 of signal over noise power, in dB; 200 dB stands for no difference"),
    ]
    return facts
