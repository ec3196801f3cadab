"""The figures of each layer under stable names with units, and as CSV."""

from __future__ import annotations

import csv
import math
from typing import TextIO

from mnv4_deploy.layers.records import LayerDrift, LayersDrift
from mnv4_deploy.text import cell_text

Cell = int | float | str | None
Row = dict[str, Cell]


def rows_of(layers: LayersDrift) -> list[Row]:
    """One row a layer, in the order they run. None stands for what is not known, never 0."""
    ranked = layers.most_damaged(len(layers.layers))
    places = {layer.index: at for at, layer in enumerate(ranked, 1)}
    return [_row(layer, places[layer.index]) for layer in layers.layers]


def write_csv(layers: LayersDrift, stream: TextIO) -> None:
    """Write one row a layer; an empty cell is a figure that is not known.

    Open files with ``newline=""`` and UTF-8. Text that starts with =, +, - or @ gets a leading
    apostrophe, so that no spreadsheet takes a name from a model file for a formula; characters
    that are not seen are left out.
    """
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows_of(layers):
        writer.writerow(map(_cell, row.values()))


def _cell(value: Cell) -> Cell:
    if isinstance(value, str):
        return cell_text(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _row(layer: LayerDrift, place: int) -> Row:
    alone, use, evidence, cause = layer.isolated, layer.output, layer.evidence, layer.cause
    return {
        "index": layer.index,
        "rank": place,
        "module": layer.module,
        "kind": layer.kind,
        "compute": layer.compute,
        "shape": "x".join(str(size) for size in layer.shape),
        "isolated_sqnr_db": alone.sqnr_db if alone else None,
        "accumulated_sqnr_db": layer.accumulated.sqnr_db,
        "isolated_cosine": alone.cosine if alone else None,
        "accumulated_cosine": layer.accumulated.cosine,
        "damage_percent": 100 * layer.damage,
        "range_used_percent": use.used_percent if use else None,
        "clipped_percent": use.clipped_percent if use else None,
        "clipping_share_percent": 100 * use.clipping_share if use else None,
        "range_low": use.low if use else None,
        "range_high": use.high if use else None,
        "seen_low": use.seen_low if use else None,
        "seen_high": use.seen_high if use else None,
        "scale": use.scale if use else None,
        "zero_point": use.zero_point if use else None,
        "weight_sqnr_db": evidence.weight_sqnr_db,
        "bias_codes_max": evidence.bias_codes_max,
        "bias_error_share_percent": 100 * evidence.bias_error_share,
        "padding": evidence.padding,
        "cause": cause.kind if cause else None,
        "cause_sentence": cause.sentence if cause else None,
        "advice": cause.advice if cause else None,
        "tensor": layer.tensor,
        "reference_tensor": layer.reference_tensor,
    }


COLUMNS = (
    *("index", "rank", "module", "kind", "compute", "shape", "isolated_sqnr_db"),
    *("accumulated_sqnr_db", "isolated_cosine", "accumulated_cosine", "damage_percent"),
    *("range_used_percent", "clipped_percent", "clipping_share_percent", "range_low"),
    *("range_high", "seen_low", "seen_high", "scale", "zero_point", "weight_sqnr_db"),
    *("bias_codes_max", "bias_error_share_percent", "padding", "cause", "cause_sentence"),
    *("advice", "tensor", "reference_tensor"),
)
