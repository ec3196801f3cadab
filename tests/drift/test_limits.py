"""Conditions of ``--fail-if``: what they take, refuse and decide."""

import math
from pathlib import Path

import pytest

from mnv4_deploy.drift import limits
from mnv4_deploy.drift.limits import known_metrics
from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.tasks.classification.task import CLASSIFICATION
from tests.drift.classifiers import make_subject
from tests.drift.drift_factory import make_layers, make_output

METRICS = known_metrics(CLASSIFICATION)
VALUES = {name: 1.0 for name in METRICS}


def parse(texts):
    return limits.parse(texts, CLASSIFICATION)


def check(texts, values):
    return limits.check(texts, CLASSIFICATION, values)


def metrics(output, layers, skipped):
    return limits.metrics(CLASSIFICATION, output, layers, skipped)


def check_decidable(texts, *, labelled, layers=True, classes=1000):
    model = make_subject(Path("x.onnx"), num_classes=classes)
    limits.check_decidable(texts, CLASSIFICATION, model, labelled=labelled, layers=layers)


@pytest.mark.parametrize(
    ("op", "below", "at", "above"),
    [
        (">", False, False, True),
        (">=", False, True, True),
        ("<", True, False, False),
        ("<=", True, True, False),
    ],
)
def test_each_operator_fails_where_it_holds(op, below, at, above) -> None:
    for value, expected in ((0.4, below), (0.5, at), (0.6, above)):
        (limit,) = check((f"top1_drop {op} 0.5",), {**VALUES, "top1_drop": value})
        assert limit.exceeded is expected
        assert (limit.metric, limit.value) == ("top1_drop", value)


@pytest.mark.parametrize(
    ("text", "bound", "shown"),
    [
        ("agreement<99", 99.0, "agreement<99"),
        ("  sqnr_db   <= -3.5 ", -3.5, "sqnr_db <= -3.5"),
        ("kl > 1e-3", 0.001, "kl > 1e-3"),
        ("KL >= +.5", 0.5, "KL >= +.5"),
        ("lost > 5.", 5.0, "lost > 5."),
    ],
)
def test_what_a_condition_may_look_like(text, bound, shown) -> None:
    (condition,) = parse((text,))
    assert (condition.bound, condition.text) == (bound, shown)
    assert condition.metric in METRICS


def test_several_are_decided_each() -> None:
    found = check(("top1_drop > 0.5", "skipped > 3", "kl > 2"), {**VALUES, "skipped": 2.0})
    assert [limit.exceeded for limit in found] == [True, False, False]


@pytest.mark.parametrize(
    "text",
    [
        *("", "top1_drop", "top1_drop >", "> 0.5", "top1_drop = 0.5", "top1_drop == 0.5"),
        *("top1_drop != 1", "0.5 < top1_drop", "top1_drop > half", "top1_drop > 0.5 %"),
        *("top1_drop > nan", "top1_drop > inf", "top1_drop > 0x10", "top1_drop > 1_000"),
        *("top1_drop >> 1", "top1_drop > \u0665", "top1_drop > 1;import os"),
    ],
)
def test_what_is_no_condition_is_refused_with_an_example(text) -> None:
    with pytest.raises(UnsupportedError, match=r"METRIC OP NUMBER .*'top1_drop > 0.5'"):
        parse((text,))


@pytest.mark.parametrize(
    "text", ["kl > 1 and lost > 2", "kl > 1 or lost > 2", "kl > 1, lost > 2", "kl > 1 && lost > 2"]
)
def test_two_in_one_are_refused_with_the_way_to_give_two(text) -> None:
    with pytest.raises(UnsupportedError, match="--fail-if once for each condition"):
        parse((text,))


def test_an_unknown_metric_gets_the_nearest_and_the_list() -> None:
    with pytest.raises(UnsupportedError) as caught:
        parse(("kl > 1", "top1drop > 0.5"))
    message = str(caught.value)
    assert "'top1drop': did you mean top1_drop?" in message
    assert all(name in message for name in METRICS)
    with pytest.raises(UnsupportedError) as caught:
        parse(("q" * 5000 + " > 1",))
    assert len(str(caught.value)) < 500


def test_what_the_run_will_not_know_is_refused_before_it() -> None:
    for name, metric in METRICS.items():
        text = f"{name} > 1"
        if metric.truth:
            with pytest.raises(UnsupportedError, match="needs the true answers"):
                check_decidable((text,), labelled=False)
        else:
            check_decidable((text,), labelled=False)
        if metric.layers:
            with pytest.raises(UnsupportedError, match="--layer-images 0"):
                check_decidable((text,), labelled=True, layers=False)
        if name.startswith("top5"):
            with pytest.raises(UnsupportedError, match="more than 5 classes, and there are 3"):
                check_decidable((text,), labelled=True, classes=3)
        check_decidable((text,), labelled=True, classes=6)


def test_what_turns_out_unknown_is_an_error_and_what_is_no_number_fails() -> None:
    with pytest.raises(UnsupportedError, match="cannot be decided: this run has no top5"):
        check(("top5 < 90",), {**VALUES, "top5": None})
    for op in ("<", ">", "<=", ">="):
        (limit,) = check((f"kl {op} 1",), {**VALUES, "kl": math.nan})
        assert limit.exceeded


def test_a_number_beyond_all_numbers_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="too large"):
        parse(("kl > 1e999",))


def test_metrics_are_the_results_own_figures() -> None:
    output, layers = make_output(), make_layers()
    found = metrics(output, layers, 3)
    assert set(found) == set(METRICS)
    assert found["top1"] == output.candidate.top1.percent
    assert found["top1_reference"] == output.reference.top1.percent
    assert found["top1_drop"] == pytest.approx(found["top1_reference"] - found["top1"])
    assert found["top1_drop_high"] == output.top1_drop_high
    assert found["lost"] - found["gained"] == (
        output.reference.top1.count - output.candidate.top1.count
    )
    assert found["agreement"] == output.agreement.percent
    assert found["skipped"] == 3
    worst = min(layer.isolated.sqnr_db for layer in layers.layers if layer.isolated)
    assert found["worst_layer_sqnr_db"] == worst
    assert all(limit.value is not None for limit in check([f"{n} > 1" for n in METRICS], found))


def test_metrics_without_labels_and_layers_are_none_and_not_zero() -> None:
    found = metrics(make_output(labelled=False), None, 0)
    missing = {name for name, value in found.items() if value is None}
    assert missing == {name for name, metric in METRICS.items() if metric.truth or metric.layers}
