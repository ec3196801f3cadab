"""The top of the report: what it cost, whether limits hold, how sure that is."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mnv4_deploy.drift.records import DriftResult
from mnv4_deploy.reports.drift.words import (
    device_text,
    drop_sentence,
    flips_sentence,
    in_db,
    measured_sentence,
    number_text,
    outputs_sentence,
    parity_sentences,
    subject_sentence,
    verdict,
    with_interval,
)
from mnv4_deploy.reports.markup import Markup, brief, joined, tag
from mnv4_deploy.sessions.records import ModelRef
from mnv4_deploy.tasks.classification.records import Flips, OutputDrift, Proportion
from mnv4_deploy.text import plural

_WIDTH, _ROW, _LEFT = 760.0, 30.0, 96.0
_NO_LABELS = (
    "There is no accuracy, no test and no list of classes, because the true classes of these "
    "images are not known: give images in a folder for each class, or a labels file."
)


def header(result: DriftResult) -> Markup:
    reference, candidate = _title(result.reference), _title(result.candidate)
    return tag(
        "header",
        tag("p", "Drift", class_="overline"),
        tag("h1", f"{candidate} against {reference}"),
        tag(
            "p",
            f"Reference: {subject_sentence(result.reference)}  ·  "
            f"Candidate: {subject_sentence(result.candidate)}",
            class_="muted",
        ),
        *_device(result),
        tag("div", *map(_figure, key_figures(result)), class_="figures"),
        *_limits(result),
        *(tag("div", note, class_="warning") for note in result.notes),
    )


def _device(result: DriftResult) -> Iterable[Markup]:
    device = result.device
    if device is None:
        return
    about = brief(device_text(device, result.device_runtimes), 200)
    yield tag("p", "Device: ", tag("b", brief(device.title, 90)), f"  {about}", class_="muted")
    differs = any(agreement.differing for agreement in result.parity)
    for sentence in parity_sentences(result):
        yield tag("div" if differs else "p", sentence, class_="warning" if differs else "muted")


def _title(subject: ModelRef) -> str:
    return brief(subject.name, 90) or "unnamed"


def key_figures(result: DriftResult) -> list[tuple[str, str]]:
    """Pairs of a figure and its name."""
    output = result.output
    figures = []
    if output.reference and output.candidate and output.flips and output.top1_drop is not None:
        figures += [
            (f"{output.reference.top1.percent:.2f} %", "top-1 of the reference"),
            (f"{output.candidate.top1.percent:.2f} %", "top-1 of the candidate"),
            (
                f"{abs(output.top1_drop):.2f} points",
                f"{'gained' if output.top1_drop < 0 else 'lost'}, {verdict(output.flips)}",
            ),
        ]
    figures += [
        (f"{output.agreement.percent:.2f} %", "same answer"),
        (in_db(output.median_sqnr_db), "SQNR, median image"),
        (number_text(output.kl), "KL divergence (nats)"),
        (f"{output.images:,}", "images"),
    ]
    if result.layers is not None:
        figures.append((str(len(result.layers.layers)), "layers compared"))
    return figures


def _figure(pair: tuple[str, str]) -> Markup:
    return tag("div", tag("b", pair[0]), tag("span", pair[1]), class_="figure")


def _limits(result: DriftResult) -> Iterable[Markup]:
    if result.limits:
        yield tag("ul", *_limit_items(result), class_="limits-list")


def _limit_items(result: DriftResult) -> Iterable[Markup]:
    for limit in result.limits:
        state = "failed" if limit.exceeded else "passed"
        yield tag(
            "li",
            tag("b", "✗ failed" if limit.exceeded else "✓ passed"),
            " fail if ",
            tag("code", brief(limit.text, 120)),
            f": {limit.metric} is {number_text(limit.value, 4)}",
            class_=state,
        )


def accuracy_section(result: DriftResult) -> Markup:
    output = result.output
    parts: list[Markup] = [tag("h2", "What it cost")]
    if output.reference and output.candidate and output.flips:
        parts += [
            tag("p", tag("b", drop_sentence(output)), " ", flips_sentence(output.flips)),
            tag("div", _intervals(output), class_="scroll"),
            _table(output, output.flips),
        ]
    else:
        parts.append(tag("p", _NO_LABELS))
    parts += [
        tag("p", f"Same answer on {with_interval(output.agreement)}. {outputs_sentence(output)}"),
        tag("p", measured_sentence(result), class_="muted"),
    ]
    return tag("section", *parts)


def _table(output: OutputDrift, flips: Flips) -> Markup:
    """Top-5 and the four kinds of images."""
    rows = []
    for name, accuracy in (("reference", output.reference), ("candidate", output.candidate)):
        if accuracy is not None and accuracy.top5 is not None:
            rows.append((f"Top-5 of the {name}", with_interval(accuracy.top5)))
    rows += [
        ("Both right", plural(flips.both_right, "image")),
        ("Only the reference right", plural(flips.lost, "image")),
        ("Only the candidate right", plural(flips.gained, "image")),
        ("Both wrong", plural(flips.both_wrong, "image")),
    ]
    return tag("dl", *(joined((tag("dt", name), tag("dd", value))) for name, value in rows))


def _intervals(output: OutputDrift) -> Markup:
    """Top-1 of both with their 95 % intervals on a common axis."""
    assert output.reference and output.candidate
    shares = (("reference", output.reference.top1), ("candidate", output.candidate.top1))
    low = min(share.low_percent for _, share in shares)
    high = max(share.high_percent for _, share in shares)
    room = max(high - low, 0.5) * 0.08
    low, high = max(low - room, 0.0), min(high + room, 100.0)

    def x(percent: float) -> float:
        return _LEFT + (percent - low) / (high - low) * (_WIDTH - _LEFT - 190)

    return tag(
        "svg",
        *(_interval(name, share, x, 24 + at * _ROW) for at, (name, share) in enumerate(shares)),
        class_="intervals",
        viewBox=f"0 0 {_WIDTH:.0f} {_ROW * 2 + 12:.0f}",
        role="img",
        aria_label="Top-1 accuracy of both with 95 % intervals",
    )


def _interval(name: str, share: Proportion, x: Callable[[float], float], y: float) -> Markup:
    return joined(
        (
            tag("text", name, class_="name", x=0.0, y=y + 4),
            tag(
                "line",
                class_=f"interval {name}",
                x1=x(share.low_percent),
                x2=x(share.high_percent),
                y1=y,
                y2=y,
            ),
            tag("circle", class_=name, cx=x(share.percent), cy=y, r=6.0),
            tag("text", with_interval(share), class_="tick", x=_WIDTH - 180, y=y + 4),
        )
    )
