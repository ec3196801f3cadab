import math

import numpy as np
import pytest
import torch
from torch import nn

from mnv4_deploy.errors import VerificationError
from mnv4_deploy.exporters import verify
from mnv4_deploy.images.preprocessing import normalize
from mnv4_deploy.models.records import Preprocessing


def _only(values):
    return {"logits": values}


def _compare(subject, against, actual, expected, tier):
    return verify.compare(subject, against, _only(actual), _only(expected), tier)


def _compare_to_float64(subject, actual, double, singles, tier):
    singles = [_only(single) for single in singles]
    return verify.compare_to_float64(subject, _only(actual), _only(double), singles, tier)


def test_the_worst_output_counts_whatever_its_rank_and_size():
    boxes, scores = np.full((2, 3, 4), 500.0), np.full((2, 3), 0.5)
    expected = {"boxes": boxes, "scores": scores}
    off = scores.copy()
    off[1, 2] += 0.01  # nothing to a box, and 2 % of a score
    found = verify.compare("a", "b", {"boxes": boxes, "scores": off}, expected, "float16")
    assert found.max_relative_error == pytest.approx(0.02) and found.images == 2
    assert verify.compare("a", "b", expected, expected, "float64").ok
    for other in ({"boxes": boxes}, {**expected, "more": scores}, {"boxes": boxes, "x": scores}):
        assert verify.compare("a", "b", other, expected, "float16").max_relative_error == math.inf


def test_deviation_is_relative_to_each_images_largest_output():
    expected = np.array([[100.0, 1.0], [0.1, -1.0]])
    actual = np.array([[100.0, 1.5], [0.1, -1.002]])
    deviation = _compare("a", "b", actual, expected, "float32")
    assert deviation.max_relative_error == pytest.approx(0.005)
    assert deviation.images == 2
    assert not deviation.ok


@pytest.mark.parametrize(
    ("tier", "tolerance"), [("float64", 1e-9), ("float32", 1e-4), ("float16", 1e-2)]
)
def test_tolerances(tier, tolerance):
    expected = np.array([[1.0, 0.0]])
    inside = _compare("a", "b", np.array([[1 + 0.9 * tolerance, 0]]), expected, tier)
    outside = _compare("a", "b", np.array([[1 + 1.1 * tolerance, 0]]), expected, tier)
    assert inside.ok
    assert not outside.ok
    verify.raise_if_failed([inside])
    with pytest.raises(VerificationError, match=tier):
        verify.raise_if_failed([inside, outside])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_not_a_number_is_infinitely_far(bad):
    good = np.ones((2, 3))
    broken = good.copy()
    broken[1, 2] = bad
    for actual, expected in ((broken, good), (good, broken), (broken, broken)):
        deviation = _compare("a", "b", actual, expected, "float16")
        assert deviation.max_relative_error == math.inf
        assert not deviation.ok


def test_another_shape_is_infinitely_far():
    for shape in ((2, 4), (1, 3), (2, 1)):
        deviation = _compare("a", "b", np.ones(shape), np.ones((2, 3)), "float16")
        assert deviation.max_relative_error == math.inf


def test_demand_names_the_worst():
    def deviation(name, error, tier):
        return _compare(name, "PyTorch", np.array([[1 + error]]), np.array([[1.0]]), tier)

    with pytest.raises(VerificationError) as raised:
        verify.raise_if_failed(
            [
                deviation("large", 0.02, "float16"),
                deviation("worst", 0.01, "float32"),
                deviation("fine", 1e-12, "float64"),
            ]
        )
    assert raised.value.exit_code == 3
    assert str(raised.value).startswith("worst differs from PyTorch by 0.01")


def test_module_sees_normalised_nchw_images():
    images = np.random.default_rng(0).integers(0, 256, (18, 4, 6, 3), np.uint8)
    spec = Preprocessing(height=4, width=6, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    expected = normalize(images, spec).astype(np.float64)
    for double in (False, True):
        module = nn.Flatten().double() if double else nn.Flatten()
        rows = verify.run_module(module, images, spec, double=double)["logits"]
        assert rows.shape == (18, 72)
        np.testing.assert_allclose(rows.reshape(18, 3, 4, 6).transpose(0, 2, 3, 1), expected)
    with torch.inference_mode():
        assert verify.run_module(nn.Flatten(), images[:1], spec)["logits"].dtype == np.float64


class TestAgainstFloat64:
    double = np.array([[1.0, 0.0], [1.0, 0.0]])

    def test_no_closer_than_pytorch_itself_is_asked_for(self):
        single = np.array([[1.0, 0.0], [1.0, 0.01]])  # off by 1e-2 on the second image
        actual = np.array([[1.0, 0.0], [1.0, 0.03]])
        found = _compare_to_float64("a", actual, self.double, [single], "float32")
        assert found.ok
        assert found.max_relative_error == pytest.approx(0.03)
        assert found.tolerance == pytest.approx(0.04)

    def test_each_image_has_its_own_allowance(self):
        single = np.array([[1.0, 0.0], [1.0, 0.01]])
        actual = np.array([[1.0, 0.03], [1.0, 0.0]])  # the error is on the well-behaved image
        found = _compare_to_float64("a", actual, self.double, [single], "float32")
        assert not found.ok
        assert found.tolerance == 1e-4

    def test_the_worst_order_of_summation_counts_image_by_image(self):
        singles = [np.array([[1.0, 0.0], [1.0, e]]) for e in (0.001, 0.01, 0.002)]
        singles[0][0, 1] = 0.005
        for image, allowed in ((0, 0.02), (1, 0.04)):
            actual = self.double.copy()
            actual[image, 1] = 0.03
            found = _compare_to_float64("a", actual, self.double, singles, "float32")
            assert found.tolerance == pytest.approx(allowed)
            assert found.ok is (image == 1)

    def test_nan_is_no_agreement(self):
        actual = np.array([[1.0, 0.0], [np.nan, 0.0]])
        found = _compare_to_float64("a", actual, self.double, [self.double], "float32")
        assert not found.ok
