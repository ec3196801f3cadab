"""Everything that a comparison of two files knows, as plain JSON."""

from __future__ import annotations

from typing import Any

from mnv4_deploy.profiles.records.plain import to_plain
from mnv4_deploy.profiles.roofline.comparison import CONFIDENCE_PERCENT, STATISTIC, Comparison
from mnv4_deploy.profiles.roofline.verdict import (
    outcome_of,
    outcome_sentence,
    verdict_of,
    verdict_sentence,
)
from mnv4_deploy.reports.profile.profile_json import profile_to_dict

SCHEMA_VERSION = 3


def comparison_to_dict(result: Comparison, limit: float | None = None) -> dict[str, Any]:
    """``result`` and what it says of ``limit``, the most that B may take in times of A's time.

    The whole profiles are under ``a`` and ``b``. Ends of intervals that are not known are None.
    ``interval_percent`` is the confidence of each interval alone, higher than
    ``confidence_percent`` where several have been looked at.
    """
    gate = None
    if limit is not None:
        gate = {
            "limit": limit,
            "outcome": outcome_of(result.ratio, limit),
            "sentence": outcome_sentence(result, limit),
        }
    return {
        "schema_version": SCHEMA_VERSION,
        "ratio": {
            **to_plain(result.ratio),
            "statistic": STATISTIC,
            "of": "cpu_time" if result.of_cpu_time else "wall_time",
        },
        "verdict": verdict_of(result.ratio),
        "sentence": verdict_sentence(result),
        "gate": gate,
        "disturbed": result.disturbed,
        "confidence_percent": CONFIDENCE_PERCENT,
        "interval_percent": result.confidence_percent,
        "looks": result.looks,
        "load_percent": result.load_percent,
        "floor": result.floor,
        "figures": {
            figure.statistic: {"a_us": figure.a_us, "b_us": figure.b_us, "ratio": figure.ratio}
            for figure in result.figures
        },
        "sessions": [
            {**to_plain(session), "ratio": ratio}
            for session, ratio in zip(result.sessions, result.session_ratios, strict=True)
        ],
        "joined_percent": result.joined_percent,
        "modules": [
            {**to_plain(change), "difference_us": change.difference_us}
            for change in result.modules
        ],
        "a": profile_to_dict(result.a),
        "b": profile_to_dict(result.b),
    }
