"""The page's table of layers, and how its sections name a layer."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mnv4_deploy.layers.records import LayerDrift, LayersDrift
from mnv4_deploy.reports.drift.layer_rows import Row, rows_of
from mnv4_deploy.reports.labels import distinct
from mnv4_deploy.text import brief, decibels_text, in_db, number_text

NAME_CHARACTERS = 120
_KIND_CHARACTERS = 40
# The page stays small whatever a file holds; the CSV has every layer.
_ROWS = 1000
# The name, which stays where it is, then the figures: on a phone they are what is seen.
COLUMNS = (
    ("module", "module"),
    ("rank", "rank"),
    ("isolated_sqnr_db", "isolated dB"),
    ("accumulated_sqnr_db", "accum. dB"),
    ("damage_percent", "noise %"),
    ("accumulated_cosine", "cosine"),
    ("range_used_percent", "range used %"),
    ("clipped_percent", "clipped %"),
    ("weight_sqnr_db", "weights dB"),
    ("cause", "cause"),
    ("kind", "kind"),
    ("compute", "compute"),
    ("shape", "output"),
    ("index", "#"),
)
TEXTS = frozenset({"module", "kind", "cause", "compute", "shape"})


@dataclass(frozen=True)
class Cell:
    """``value`` is what a column of numbers sorts by, ``hint`` the whole of what is cut short."""

    shown: str
    hint: str = ""
    value: str = ""


def table_rows(layers: LayersDrift) -> list[tuple[int, tuple[Cell, ...]]]:
    """The layers' ``index`` and cells, by :data:`COLUMNS`; the most damaged first."""
    rows = sorted(rows_of(layers), key=lambda row: int(row["rank"] or 0))
    names = layer_names(layers)
    named = [(index := int(row["index"] or 0), row | {"module": names[index]}) for row in rows]
    return [(index, tuple(_cell(key, row) for key, _ in COLUMNS)) for index, row in named[:_ROWS]]


def _cell(key: str, row: Row) -> Cell:
    value = row[key]
    if key in TEXTS:
        whole = str(value or "")
        hint = str(row["cause_sentence"] or "") if key == "cause" else whole
        return Cell(brief(whole, 2 * NAME_CHARACTERS) or "–", brief(hint, 600))
    if value is None or not math.isfinite(number := float(value)):
        return Cell("–")
    # Numbers sort by value, not by what is shown of them.
    return Cell(_number(key, number), value=f"{number:.9g}")


def _number(key: str, value: float) -> str:
    if key.endswith("_db"):
        return decibels_text(value)
    return f"{value:.6f}" if "cosine" in key else number_text(value)


def layer_names(layers: LayersDrift) -> dict[int, str]:
    """By ``index`` what a page calls each layer, no two the same."""
    found = layers.layers
    names = [brief(x.module or x.tensor or x.kind, NAME_CHARACTERS) for x in found]
    kinds, numbers = [brief(x.kind, _KIND_CHARACTERS) for x in found], [x.index for x in found]
    return dict(zip(numbers, distinct(names, kinds, numbers), strict=True))


def linked(layers: LayersDrift) -> frozenset[int]:
    """The ``index`` of each layer that has a row to link to."""
    return frozenset(layer.index for layer in layers.most_damaged(_ROWS))


def layer_figures(layer: LayerDrift) -> str:
    """Kind and SQNR of a layer."""
    isolated = in_db(layer.isolated.sqnr_db) if layer.isolated else "not known"
    return (
        f"{brief(layer.kind, _KIND_CHARACTERS)}, SQNR isolated {isolated}, accumulated "
        f"{in_db(layer.accumulated.sqnr_db)}"
    )
