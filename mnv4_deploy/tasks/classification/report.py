"""What quantization cost a classifier, in words and figures for people."""

from __future__ import annotations

from collections.abc import Iterable

from mnv4_deploy.tasks.classification.records import (
    TRUTH_ADVICE,
    ClassChange,
    Flips,
    ImageChange,
    OutputDrift,
    Proportion,
)
from mnv4_deploy.tasks.classification.statistics import class_name
from mnv4_deploy.tasks.report import (
    CardLine,
    Comparison,
    ImageCard,
    Measured,
    State,
    Table,
    TaskReport,
)
from mnv4_deploy.text import in_db, number_text, p_text, plural, with_interval

_SIGNIFICANT = 0.05
_FIGURES = ("images", "reference %", "candidate %", "lost", "gained")
_CLASS_COLUMNS = (("class", True), *((name, False) for name in _FIGURES), ("mistaken for", True))
_METHODS = (
    ("Intervals", "95 %: Wilson's of one accuracy, Newcombe's (method 10) of the difference"),
    ("Test", "McNemar's exact test (two-sided binomial) of the answers that flipped"),
)
_MISSING = (
    "There is no accuracy, no test and no list of classes, because the true classes of these "
    f"images are not known: {TRUTH_ADVICE}."
)


def make_report(summary: OutputDrift, labels: tuple[str, ...]) -> TaskReport:
    """``labels`` are the names of the classes, empty where they are unknown."""
    flips = summary.flips
    agreement = with_interval(*_interval(summary.agreement), "%")
    return TaskReport(
        comparisons=tuple(_comparisons(summary)),
        headline=drop_sentence(summary) or f"Both give the same class on {agreement} of images.",
        sentences=(
            *((f"{summary.label_doubt}.",) if summary.label_doubt else ()),
            *((flips_sentence(flips),) if flips else ()),
            f"Outputs: SQNR {in_db(summary.median_sqnr_db)} in the median image and "
            f"{in_db(summary.sqnr_db)} over all together, cosine "
            f"{number_text(summary.cosine, 5)}, KL divergence {number_text(summary.kl)} nats.",
        ),
        key_figures=tuple(_key_figures(summary)),
        facts=_facts(flips) if flips else (),
        cards_note=f"The {plural(len(summary.worst), 'image')} with the largest KL divergence "
        "between the two answers."
        if summary.worst
        else "Both gave the same outputs on every image.",
        cards=tuple(_card(change, labels) for change in summary.worst),
        tables=(_class_table(summary),) if flips else (),
        methods=_METHODS if flips else _METHODS[:1],
        missing="" if flips else _MISSING,
    )


def drop_sentence(summary: OutputDrift) -> str:
    """What top-1 lost; "" without labels."""
    drop, low, high = summary.top1_drop, summary.top1_drop_low, summary.top1_drop_high
    if drop is None or low is None or high is None:
        return ""
    if drop == 0:
        what = "The candidate is right as often as the reference"
    else:
        what = f"The candidate {'loses' if drop > 0 else 'gains'} {abs(drop):.2f} points of top-1"
    return f"{what} (95 % interval of the loss: {low:.2f} to {high:.2f} points)."


def flips_sentence(flips: Flips) -> str:
    """Flips and McNemar's test in plain words."""
    if flips.lost + flips.gained == 0:
        return "No answer went from right to wrong or from wrong to right."
    counts = (
        f"{plural(flips.lost, 'image')} the reference had right went wrong, "
        f"{flips.gained} it had wrong came right"
    )
    test = f"McNemar's exact test, {p_text(flips.p_value)}"
    if flips.p_value >= _SIGNIFICANT:
        return f"{counts}: so uneven a split could be chance ({test})."
    worse = "worse" if flips.lost > flips.gained else "better"
    return f"{counts}: the candidate is significantly {worse}, this is hardly chance ({test})."


def _interval(share: Proportion) -> tuple[float, float, float]:
    return share.percent, share.low_percent, share.high_percent


def _comparisons(summary: OutputDrift) -> Iterable[Comparison]:
    before, after = summary.reference, summary.candidate
    if before and after:
        yield _comparison("top-1", before.top1, after.top1, summary.top1_drop)
        if before.top5 and after.top5:
            yield _comparison("top-5", before.top5, after.top5, summary.top5_drop)
    yield Comparison("agreement", "%", candidate=Measured(*_interval(summary.agreement)))


def _comparison(
    name: str, before: Proportion, after: Proportion, drop: float | None
) -> Comparison:
    return Comparison(
        name, "%", Measured(*_interval(before)), Measured(*_interval(after)), drop, "points"
    )


def _key_figures(summary: OutputDrift) -> Iterable[tuple[str, str]]:
    before, after, drop = summary.reference, summary.candidate, summary.top1_drop
    if before and after and summary.flips and drop is not None:
        sure = summary.flips.p_value < _SIGNIFICANT
        yield f"{before.top1.percent:.2f} %", "top-1 of the reference"
        yield f"{after.top1.percent:.2f} %", "top-1 of the candidate"
        yield (
            f"{abs(drop):.2f} points",
            f"{'gained' if drop < 0 else 'lost'}, {'significant' if sure else 'could be chance'}",
        )
    yield f"{summary.agreement.percent:.2f} %", "agreement"
    yield in_db(summary.median_sqnr_db), "SQNR, median image"
    yield number_text(summary.kl), "KL divergence (nats)"


def _facts(flips: Flips) -> tuple[tuple[str, str], ...]:
    return (
        ("Both right", plural(flips.both_right, "image")),
        ("Only the reference right", plural(flips.lost, "image")),
        ("Only the candidate right", plural(flips.gained, "image")),
        ("Both wrong", plural(flips.both_wrong, "image")),
    )


def _card(change: ImageChange, labels: tuple[str, ...]) -> ImageCard:
    answers = (("reference", change.reference_class), ("candidate", change.candidate_class))
    lines = [
        CardLine(title, class_name(answer, labels), _state(answer, change.label))
        for title, answer in answers
    ]
    if change.label is not None:
        lines.insert(0, CardLine("true class", class_name(change.label, labels)))
    note = f"KL {number_text(change.kl)}, SQNR {in_db(change.sqnr_db)}"
    return ImageCard(change.name, change.path, tuple(lines), note)


def _state(answer: int, label: int | None) -> State:
    if label is None:
        return ""
    return "right" if answer == label else "wrong"


def _class_table(summary: OutputDrift) -> Table:
    changed = [change for change in summary.classes if change.lost or change.gained]
    return Table(
        title="Classes that changed",
        note=f"Of {len(summary.classes)} classes with images {len(changed)} lost or gained some; "
        "drift.json has all.",
        columns=_CLASS_COLUMNS,
        rows=tuple(map(_class_row, changed)),
        empty="No class lost or gained an image.",
    )


def _class_row(change: ClassChange) -> tuple[str, ...]:
    return (
        change.name,
        str(change.images),
        f"{change.reference_top1:.1f}",
        f"{change.candidate_top1:.1f}",
        str(change.lost),
        str(change.gained),
        change.mistaken_for or "–",
    )
