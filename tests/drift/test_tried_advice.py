"""Advice is shown with what it won, where it was tried; where it won nothing there is none."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from mnv4_deploy.drift.causes.tried import with_trials
from mnv4_deploy.drift.records import DriftResult
from mnv4_deploy.layers.layer import Quantization
from mnv4_deploy.layers.records import (
    Cause,
    CauseKind,
    Diagnosis,
    LayersDrift,
    OutputEffect,
    OutputEffects,
    OutputTrial,
    OutputTrials,
)
from mnv4_deploy.layers.trials import fitting
from mnv4_deploy.reports.drift.drift_json import drift_to_dict
from mnv4_deploy.reports.drift.html_report import report_page
from mnv4_deploy.terminal.drift import print_drift
from tests.drift.drift_factory import make_layers, make_result

KINDS: tuple[CauseKind, ...] = ("clipped activation", "coarse weights", "rounded weights")
TRIED = OutputTrials(
    images=8,
    candidate=OutputTrial(7.71, 5),
    in_float=(OutputTrial(20.11, 7), OutputTrial(7.74, 5), OutputTrial(9.42, 6)),
    together=(OutputTrial(20.11, 7), OutputTrial(21.33, 7), OutputTrial(33.27, 8)),
    fitting_range=(OutputTrial(18.83, 6), None, OutputTrial(7.61, 5)),
    all_ranges=OutputTrial(25.55, 8),
)
ADVICE = "Do this."


def judged() -> LayersDrift:
    """Layers 2, 5, 9 and 11 are ranked; the first three were tried."""
    made = make_layers()
    ranked = tuple(OutputEffect(at, 1.0, 2.0, 0.5) for at in (2, 5, 9, 11))
    effects = OutputEffects(16, 7.5, 0.9, ranked, TRIED)
    ranking = [
        Diagnosis(made.layers[effect.layer].module, effect.layer, Cause(kind, "It is 3.", ADVICE))
        for effect, kind in zip(ranked, (*KINDS, "rounded weights"), strict=True)
    ]
    ranking = [replace(d, effect=e) for d, e in zip(ranking, ranked, strict=True)]
    layers = replace(made, ranking=tuple(ranking), effects=effects)
    return replace(layers, ranking=tuple(with_trials(ranking, layers)))


def test_advice_stays_where_it_won() -> None:
    clipped, coarse, rounded, untried = judged().ranking
    # A range is to be mended, so a range is what was tried; 7.74 for 7.71 dB is nothing.
    assert clipped.trial is not None and clipped.trial.mended == OutputTrial(18.83, 6)
    assert coarse.trial is not None and coarse.trial.gain_db == pytest.approx(0.03)
    assert rounded.trial is not None and rounded.trial.mended == OutputTrial(9.42, 6)
    assert untried.trial is None
    advice = [entry.cause.advice for entry in (clipped, coarse, rounded, untried)]
    assert advice == [ADVICE, "", ADVICE, ""]


def test_new_ranges_of_all_layers_are_what_other_calibration_images_win() -> None:
    layers = judged()
    cause = Cause("calibration data", "It is 4.", ADVICE)
    (found,) = with_trials([Diagnosis("all layers", None, cause)], layers)
    assert found.trial is not None and found.trial.mended == TRIED.all_ranges


def test_without_trials_advice_is_as_it_was() -> None:
    layers = make_layers()
    assert tuple(with_trials(layers.ranking, layers)) == layers.ranking


def result() -> DriftResult:
    made = make_result()
    return replace(made, layers=judged())


def test_terminal_page_and_json_say_what_was_won() -> None:
    text = io.StringIO()
    print_drift(result(), console=Console(file=text, width=1000))
    page = report_page(result())
    for shown in (text.getvalue(), page):
        assert shown.count(ADVICE) == 2
        for figure in ("18.8 dB", "9.4 dB", "33.3 dB", "7.7 dB"):
            assert figure in shown
    document = json.loads(json.dumps(drift_to_dict(result()), allow_nan=False))["layers"]
    assert document["effects"]["tried"]["together"][2] == {"sqnr_db": 33.27, "alike": 8}
    assert document["ranking"][0]["trial"]["fitting_range"]["sqnr_db"] == 18.83
    assert document["ranking"][3]["trial"] is None


def test_a_range_that_fits_holds_its_ends_and_zero() -> None:
    own = Quantization(0.5, 3, "uint8")
    for low, high in ((-1.0, 3.0), (0.5, 3.0), (-2.0, -1.0)):
        made = fitting(own, low, high)
        ends = np.array([min(low, 0.0), 0.0, max(high, 0.0)])
        found = made.dequantize(made.quantize(ends))
        np.testing.assert_allclose(found, ends, atol=made.scale)
        assert made.quantize(np.zeros(1))[0] == made.zero_point
        assert made.scale == pytest.approx((ends[2] - ends[0]) / 255)
    assert fitting(own, 0.0, 0.0) == own
