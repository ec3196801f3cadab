"""The report's sections about layers: causes, the chart, channels, the table."""

from __future__ import annotations

import math
from collections.abc import Iterable

from mnv4_deploy.drift.records import DriftResult
from mnv4_deploy.layers.records import Diagnosis, LayerDrift, LayersDrift
from mnv4_deploy.reports.drift.channel_chart import channel_charts
from mnv4_deploy.reports.drift.layer_rows import Row, rows_of
from mnv4_deploy.reports.drift.network_chart import network_chart
from mnv4_deploy.reports.drift.words import decibels_text, in_db, number_text
from mnv4_deploy.reports.markup import Markup, brief, joined, tag
from mnv4_deploy.text import plural

_CAUSES = 10
_CHANNELS = 6
_UNMATCHED = 40
_TEXT = 120
# The page stays small whatever a file holds; the CSV has every layer.
_ROWS = 1000
_COLUMNS = (
    ("rank", "rank"),
    ("index", "#"),
    ("module", "module"),
    ("kind", "kind"),
    ("cause", "cause"),
    ("isolated_sqnr_db", "alone dB"),
    ("accumulated_sqnr_db", "accumulated dB"),
    ("damage_percent", "noise %"),
    ("accumulated_cosine", "cosine"),
    ("range_used_percent", "range used %"),
    ("clipped_percent", "clipped %"),
    ("weight_sqnr_db", "weights dB"),
    ("compute", "compute"),
    ("shape", "output"),
)
_NUMBERS = frozenset(
    {"rank", "index", "damage_percent", "accumulated_cosine", "range_used_percent"}
    | {"clipped_percent", "isolated_sqnr_db", "accumulated_sqnr_db", "weight_sqnr_db"}
)
_NO_LAYERS = "Layers were not compared: run drift with --layer-images 32 to see which lose most."


def layer_sections(result: DriftResult) -> list[Markup]:
    layers = result.layers
    if layers is None:
        return [tag("section", tag("h2", "Layers"), tag("p", _NO_LAYERS))]
    if not layers.layers:
        text = "No layer of the candidate has a counterpart in the reference."
        return [tag("section", tag("h2", "Layers"), tag("p", text), *_remarks(layers))]
    return [
        _causes(layers),
        _chart(layers),
        *_channels(layers),
    ]


def layer_table(layers: LayersDrift) -> Markup:
    """All layers, the most damaged first; sortable where scripts run."""
    rows = rows_of(layers)
    shown = sorted(rows, key=lambda row: int(row["rank"] or 0))[:_ROWS]
    note = f"{plural(len(rows), 'layer')}"
    if len(shown) < len(rows):
        note = f"The {len(shown)} most damaged of {note}; drift-layers.csv has all."
    head = tag("tr", *(_heading(key, title) for key, title in _COLUMNS))
    return tag(
        "section",
        tag("h2", "All layers"),
        tag(
            "div",
            tag(
                "label",
                "Search ",
                tag("input", id="search", type="search", placeholder="module, kind, cause, …"),
            ),
            tag("span", note, id="count", class_="muted"),
            class_="controls",
        ),
        tag(
            "div",
            tag("table", tag("thead", head), tag("tbody", *map(_table_row, shown)), id="layers"),
            class_="scroll table",
        ),
        *_remarks(layers),
    )


def _heading(key: str, title: str) -> Markup:
    return tag(
        "th",
        tag("button", title, type="button"),
        class_="number" if key in _NUMBERS else "text",
        aria_sort="ascending" if key == "rank" else "none",
    )


def _table_row(row: Row) -> Markup:
    return tag("tr", *(_cell(key, row) for key, _ in _COLUMNS), id=f"layer-{row['index']}")


def _cell(key: str, row: Row) -> Markup:
    value = row[key]
    if key not in _NUMBERS:
        whole = str(value or "")
        shown = brief(whole, _TEXT) or "–"
        hint = str(row["cause_sentence"] or "") if key == "cause" else whole
        return tag("td", shown, class_="text", title=brief(hint, 600) or None)
    number = None if value is None or not math.isfinite(float(value)) else float(value)
    shown = decibels_text(number) if key.endswith("_db") else _number(key, number)
    # Numbers sort by value, not by what is shown of them.
    exact = None if number is None else f"{number:.9g}"
    return tag("td", shown, class_="number", data_value=exact)


def _number(key: str, value: float | None) -> str:
    return number_text(value) if value is None or "cosine" not in key else f"{value:.6f}"


def _causes(layers: LayersDrift) -> Markup:
    entries = [_cause(entry, layers) for entry in layers.ranking]
    parts: list[Markup] = [tag("ol", *entries[:_CAUSES], class_="causes")]
    if len(entries) > _CAUSES:
        rest = tag("ol", *entries[_CAUSES:], class_="causes", start=str(_CAUSES + 1))
        parts.append(tag("details", tag("summary", f"{len(entries) - _CAUSES} more"), rest))
    if not entries:
        parts = [tag("p", "No layer stands out, and no known fault was found.")]
    return tag("section", tag("h2", "What it comes from, worst first"), *parts)


def _cause(entry: Diagnosis, layers: LayersDrift) -> Markup:
    name: Markup | str = brief(entry.module, _TEXT)
    figures = ""
    if entry.layer is not None:
        layer = layers.layers[entry.layer]
        name = tag("a", name or _name(layer), href=f"#layer-{layer.index}")
        figures = f" ({_figures(layer)})"
    return tag(
        "li",
        tag("h3", name, f": {entry.cause.kind}"),
        tag("p", entry.cause.sentence, tag("span", figures, class_="muted")),
        tag("p", entry.cause.advice),
        class_="finding",
    )


def _name(layer: LayerDrift) -> str:
    return brief(layer.module or layer.tensor or layer.kind, _TEXT)


def _figures(layer: LayerDrift) -> str:
    alone = in_db(layer.isolated.sqnr_db) if layer.isolated else "not known"
    return (
        f"{brief(layer.kind, 40)}, SQNR alone {alone}, through the network "
        f"{in_db(layer.accumulated.sqnr_db)}"
    )


def _chart(layers: LayersDrift) -> Markup:
    legend = tag(
        "div",
        tag("span", tag("span", class_="swatch accumulated"), "through the network"),
        tag("span", tag("span", class_="swatch isolated"), "the layer alone"),
        tag("span", tag("span", "1", class_="swatch badge"), "most damaged"),
        class_="legend",
    )
    worst = [
        tag("li", tag("a", _name(layer), href=f"#layer-{layer.index}"), f": {_figures(layer)}")
        for layer in layers.most_damaged(5)
    ]
    return tag(
        "section",
        tag("h2", "Signal to quantization noise along the network"),
        tag(
            "p",
            "Higher is better. The line has the noise of all layers so far; a dot has the noise "
            "that one layer adds on its own, on the reference's inputs.",
            class_="muted",
        ),
        legend,
        tag("div", network_chart(layers), class_="scroll chart-box"),
        tag("h3", "Most damaged layers"),
        tag("ol", *worst, class_="worst"),
    )


def _channels(layers: LayersDrift) -> Iterable[Markup]:
    cards: list[Markup] = []
    for layer in layers.most_damaged(len(layers.layers)):
        if len(cards) == _CHANNELS:
            break
        charts = channel_charts(layer)
        if charts:
            title = tag("h3", tag("a", _name(layer), href=f"#layer-{layer.index}"))
            cards.append(tag("div", title, tag("p", _figures(layer), class_="muted"), *charts))
    if cards:
        yield tag(
            "section",
            tag("h2", "Channels of the most damaged layers"),
            tag(
                "p",
                "Channels that share a scale share its steps: one that towers over the others "
                "leaves them few.",
                class_="muted",
            ),
            tag("div", *cards, class_="cards"),
        )


def _remarks(layers: LayersDrift) -> Iterable[Markup]:
    if layers.unmatched:
        few = layers.unmatched[:_UNMATCHED]
        names = joined((tag("code", brief(name, 80)) for name in few), ", ")
        rest = len(layers.unmatched) - len(few)
        outputs = plural(len(layers.unmatched), "output")
        more = f" and {rest} more" if rest else ""
        yield tag("p", f"Without a counterpart in the reference, {outputs}: ", names, more)
    for note in layers.notes:
        yield tag("p", note, class_="muted")
