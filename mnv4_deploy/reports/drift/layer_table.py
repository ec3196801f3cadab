"""The page's table of layers, and how its sections name a layer."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mnv4_deploy.layers.records import LayerDrift, LayersDrift
from mnv4_deploy.reports.drift.layer_rows import Row, rows_of
from mnv4_deploy.text import brief, decibels_text, in_db, number_text

NAME_CHARACTERS = 120
# The page stays small whatever a file holds; the CSV has every layer.
_ROWS = 1000
COLUMNS = (
    ("rank", "rank"),
    ("index", "#"),
    ("module", "module"),
    ("kind", "kind"),
    ("cause", "cause"),
    ("isolated_sqnr_db", "isolated dB"),
    ("accumulated_sqnr_db", "accumulated dB"),
    ("damage_percent", "noise %"),
    ("accumulated_cosine", "cosine"),
    ("range_used_percent", "range used %"),
    ("clipped_percent", "clipped %"),
    ("weight_sqnr_db", "weights dB"),
    ("compute", "compute"),
    ("shape", "output"),
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
    return [
        (int(row["index"] or 0), tuple(_cell(key, row) for key, _ in COLUMNS))
        for row in rows[:_ROWS]
    ]


def _cell(key: str, row: Row) -> Cell:
    value = row[key]
    if key in TEXTS:
        whole = str(value or "")
        hint = str(row["cause_sentence"] or "") if key == "cause" else whole
        return Cell(brief(whole, NAME_CHARACTERS) or "–", brief(hint, 600))
    if value is None or not math.isfinite(number := float(value)):
        return Cell("–")
    # Numbers sort by value, not by what is shown of them.
    return Cell(_number(key, number), value=f"{number:.9g}")


def _number(key: str, value: float) -> str:
    if key.endswith("_db"):
        return decibels_text(value)
    return f"{value:.6f}" if "cosine" in key else number_text(value)


def layer_name(layer: LayerDrift) -> str:
    return brief(layer.module or layer.tensor or layer.kind, NAME_CHARACTERS)


def layer_figures(layer: LayerDrift) -> str:
    """Kind and SQNR of a layer."""
    isolated = in_db(layer.isolated.sqnr_db) if layer.isolated else "not known"
    return (
        f"{brief(layer.kind, 40)}, SQNR isolated {isolated}, accumulated "
        f"{in_db(layer.accumulated.sqnr_db)}"
    )
