"""The table of layers as CSV."""

from __future__ import annotations

import csv
from typing import TextIO

from mnv4_deploy.profiles.records.profile import ModelProfile
from mnv4_deploy.reports.profile.rows import Cell, rows_of
from mnv4_deploy.text import cell_text

COLUMNS = (
    *("index", "module", "name", "op_type", "compute", "backend", "partition", "file_op_types"),
    *("kernels", "output_shape", "latency_us", "p10_us", "p50_us", "p90_us", "min_us", "max_us"),
    *("mean_us", "share_percent", "macs", "other_ops", "weight_bytes", "read_bytes"),
    *("written_bytes", "operational_intensity", "gmacs_per_s", "bound", "level", "roof_us"),
    *("percent_of_roof", "recoverable_us", "refusal"),
)


def write_csv(profile: ModelProfile, stream: TextIO) -> None:
    """Write one row a layer; an empty cell is a figure that is not known.

    Open files with ``newline=""`` and UTF-8. Text that starts with =, +, - or @ gets a leading
    apostrophe, so that no spreadsheet takes a name from a model file for a formula; characters
    that are not seen are left out.
    """
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows_of(profile):
        writer.writerow([_cell(row[column]) for column in COLUMNS])


def _cell(value: Cell) -> Cell:
    return cell_text(value) if isinstance(value, str) else value
