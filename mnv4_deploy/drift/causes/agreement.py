"""How well outputs agree, and whether a trial mended them: one bar for all that is tried."""

from __future__ import annotations

from mnv4_deploy.sessions.outputs import Outputs, paired
from mnv4_deploy.tasks.rows import output_columns, output_figures

# By this much a trial must do better, to at least that: then it repairs nearly all.
_GAIN_DB = 6.0
_GOOD_DB = 15.0


def median_sqnr_db(wanted: Outputs, given: Outputs) -> float:
    """The median over images: one image with large outputs does not rule it."""
    return output_figures(output_columns(wanted, paired(wanted, given))).median_sqnr_db


def repaired(before_db: float, after_db: float) -> bool:
    """Whether what was tried between the two repairs nearly all of the drift."""
    return after_db >= max(before_db + _GAIN_DB, _GOOD_DB)
