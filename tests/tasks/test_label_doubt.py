"""Labels in another numbering are told from a network that is wrong, and from chance."""

from __future__ import annotations

import numpy as np
import pytest

from mnv4_deploy.drift.limits import check, metrics
from mnv4_deploy.tasks.classification.label_doubt import label_doubt
from mnv4_deploy.tasks.classification.task import CLASSIFICATION
from tests.drift.drift_factory import make_output

CLASSES, IMAGES = 100, 500


def _answers(accuracy: float) -> tuple[np.ndarray, np.ndarray]:
    """True classes, and answers of which ``accuracy`` are right."""
    random = np.random.default_rng(0)
    truth = np.arange(IMAGES, dtype=np.int32) % CLASSES
    wrong = random.random(IMAGES) > accuracy
    answers = np.where(wrong, random.integers(0, CLASSES, IMAGES), truth)
    return truth, answers.astype(np.int32)


@pytest.mark.parametrize("accuracy", [0.3, 0.7, 1.0])
def test_labels_in_order_raise_no_doubt(accuracy):
    assert label_doubt(*_answers(accuracy)) == ""


@pytest.mark.parametrize("step", [-1, 1, 3])
def test_a_shift_is_named(step):
    truth, answers = _answers(0.7)
    assert f"off by {abs(step)}" in label_doubt(truth - step, answers)


def test_another_order_is_told_from_answers_by_chance():
    truth, answers = _answers(0.7)
    order = np.random.default_rng(1).permutation(CLASSES).astype(np.int32)
    assert "another order" in label_doubt(order[truth], answers)
    assert "of other classes" in label_doubt(truth, np.full(IMAGES, 7, np.int32) * (truth != 7))


def test_few_images_tell_nothing():
    truth, answers = _answers(1.0)
    assert label_doubt(truth[:10] + 1, answers[:10]) == ""


def test_a_limit_on_accuracy_is_inconclusive_and_one_on_outputs_is_not():
    from dataclasses import replace

    summary = replace(make_output(), label_doubt="The labels seem to be off by 1")
    values = metrics(CLASSIFICATION, summary, None, 0)
    accuracy, outputs = check(
        ["top1_drop > 99", "kl > 99"], CLASSIFICATION, values, CLASSIFICATION.doubts(summary)
    )
    assert (accuracy.state, outputs.state) == ("inconclusive", "kept")
