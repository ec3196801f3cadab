"""The report's sections about images: the worst, classes that changed, what was skipped."""

from __future__ import annotations

from collections.abc import Iterable

from mnv4_deploy.drift.records import DriftResult
from mnv4_deploy.reports.drift.thumbnails import SIZE, thumbnail
from mnv4_deploy.reports.drift.words import in_db, number_text
from mnv4_deploy.reports.markup import Markup, brief, tag
from mnv4_deploy.tasks.classification.records import ClassChange, ImageChange
from mnv4_deploy.tasks.classification.statistics import class_name
from mnv4_deploy.text import plural

_CLASSES = 40
_SKIPPED = 100
_NAME = 60
_HINT = 600


def image_sections(result: DriftResult) -> list[Markup]:
    return [_contact_sheet(result), *_classes(result), *_skipped(result)]


def _contact_sheet(result: DriftResult) -> Markup:
    worst = result.output.worst
    if not worst:
        text = "Both gave the same outputs on every image."
        return tag("section", tag("h2", "Images that changed most"), tag("p", text))
    labels = result.candidate.labels or result.reference.labels
    return tag(
        "section",
        tag("h2", "Images that changed most"),
        tag(
            "p",
            f"The {plural(len(worst), 'image')} with the largest KL divergence between the two "
            "answers.",
            class_="muted",
        ),
        tag("div", *(_card(change, labels) for change in worst), class_="sheet"),
    )


def _card(change: ImageChange, labels: tuple[str, ...]) -> Markup:
    small = thumbnail(change.path)
    name = brief(change.name, _NAME)
    picture = (
        tag("img", src=Markup(small), alt=name)
        if small
        else tag("span", "cannot be opened any more", class_="missing")
    )
    return tag(
        "figure",
        tag("div", picture, class_="picture", style=f"height: {SIZE}px"),
        tag(
            "figcaption",
            tag("b", name, title=brief(change.name, _HINT)),
            *_answers(change, labels),
            tag(
                "span",
                f"KL {number_text(change.kl)}, SQNR {in_db(change.sqnr_db)}",
                class_="muted",
            ),
        ),
    )


def _answers(change: ImageChange, labels: tuple[str, ...]) -> Iterable[Markup]:
    if change.label is not None:
        yield _line("true class", change.label, labels, "")
    for title, answer in (
        ("reference", change.reference_class),
        ("candidate", change.candidate_class),
    ):
        state = ""
        if change.label is not None:
            state = "right" if answer == change.label else "wrong"
        yield _line(title, answer, labels, state)


def _line(title: str, label: int, labels: tuple[str, ...], state: str) -> Markup:
    sign = {"right": " ✓", "wrong": " ✗"}.get(state, "")
    return tag(
        "span",
        f"{title}: ",
        tag("span", brief(class_name(label, labels), 40) + sign, class_=state or None),
    )


def _classes(result: DriftResult) -> Iterable[Markup]:
    if result.output.flips is None:
        return
    changed = [change for change in result.output.classes if change.lost or change.gained]
    if not changed:
        text = "No class lost or gained an image."
        yield tag("section", tag("h2", "Classes that changed"), tag("p", text))
        return
    parts = [_class_table(changed[:_CLASSES])]
    if len(changed) > _CLASSES:
        more = f"{len(changed) - _CLASSES} more classes"
        parts.append(
            tag("details", tag("summary", more), _class_table(changed[_CLASSES:][: 4 * _CLASSES]))
        )
    yield tag(
        "section",
        tag("h2", "Classes that changed"),
        tag(
            "p",
            f"Of {len(result.output.classes)} classes with images {len(changed)} lost or gained "
            "some; drift.json has all.",
            class_="muted",
        ),
        *parts,
    )


def _class_table(changes: list[ClassChange]) -> Markup:
    titles = ("class", "images", "reference %", "candidate %", "lost", "gained", "mistaken for")
    text = {"class", "mistaken for"}
    head = tag("tr", *(tag("th", t, class_="text" if t in text else "number") for t in titles))
    return tag(
        "div",
        tag("table", tag("thead", head), tag("tbody", *map(_class_row, changes)), class_="plain"),
        class_="scroll table",
    )


def _class_row(change: ClassChange) -> Markup:
    numbers = (
        str(change.images),
        f"{change.reference_top1:.1f}",
        f"{change.candidate_top1:.1f}",
        str(change.lost),
        str(change.gained),
    )
    return tag(
        "tr",
        tag("td", brief(change.name, _NAME), class_="text", title=brief(change.name, _HINT)),
        *(tag("td", number, class_="number") for number in numbers),
        tag("td", brief(change.mistaken_for, _NAME) or "–", class_="text"),
    )


def _skipped(result: DriftResult) -> Iterable[Markup]:
    if not result.skipped:
        return
    items = [
        tag(
            "li",
            tag("code", brief(image.name, 120)),
            f": {brief(image.reason, 200)}",
        )
        for image in result.skipped[:_SKIPPED]
    ]
    if len(result.skipped) > _SKIPPED:
        items.append(tag("li", f"and {len(result.skipped) - _SKIPPED} more"))
    yield tag(
        "section",
        tag("h2", "Skipped files"),
        tag(
            "p",
            f"{plural(len(result.skipped), 'file')} could not be used, so no figure counts them.",
            class_="muted",
        ),
        tag("ul", *items),
    )
