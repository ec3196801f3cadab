import math

import numpy as np
import pytest
import torch
from torch import nn

from mnv4_deploy.errors import VerificationError
from mnv4_deploy.exporters import verify
from mnv4_deploy.images.preprocessing import normalize
from mnv4_deploy.models.records import Preprocessing


def _float32(*rows):
    return np.array(rows, np.float32)


def test_drift_of_hand_computed_outputs():
    fp32 = _float32([3, 4], [4, 3], [1, 0], [0, 2])
    int8 = _float32([3, 4], [4, 3], [0, 1], [0, 1])
    drift = verify.measure_drift("x", int8, fp32, (1, 1, 0, 1))
    # Predictions: fp32 1 0 0 1, int8 1 0 1 1; labels 1 1 0 1.
    assert drift.images == 4
    assert drift.agreement == 75.0
    assert drift.top1_fp32 == 75.0
    assert drift.top1 == 50.0
    # Signal 25 + 25 + 1 + 4, noise 0 + 0 + 2 + 1.
    assert drift.sqnr_db == pytest.approx(10 * math.log10(55 / 3))
    # By image: 200 (no noise), 200, 10 log10(1/2), 10 log10(4): the middle two are 6.02 and 200.
    assert drift.median_sqnr_db == pytest.approx((200 + 10 * math.log10(4)) / 2)
    assert drift.cosine == pytest.approx((1 + 1 + 0 + 1) / 4)


def test_labels_that_are_partly_or_never_known():
    outputs = _float32([0, 1], [1, 0], [1, 0])
    assert verify.measure_drift("x", outputs, outputs, (None, 0, 1)).top1 == 50.0
    unknown = verify.measure_drift("x", outputs, outputs, (None, None, None))
    assert unknown.top1 is None
    assert unknown.top1_fp32 is None
    assert unknown.agreement == 100.0


def test_equal_and_opposite_outputs_stay_finite():
    outputs = _float32([0, 1], [2, 0])
    zero = np.zeros_like(outputs)
    equal = verify.measure_drift("x", outputs, outputs, (0, 0))
    assert (equal.sqnr_db, equal.median_sqnr_db) == (200.0, 200.0)
    assert equal.cosine == pytest.approx(1)
    assert verify.measure_drift("x", -outputs, outputs, (0, 0)).cosine == pytest.approx(-1)
    assert verify.measure_drift("x", outputs, zero, (0, 0)).sqnr_db == -200.0
    assert verify.measure_drift("x", zero, zero, (0, 0)).sqnr_db == 200.0


def test_deviation_is_relative_to_each_images_largest_output():
    expected = np.array([[100.0, 1.0], [0.1, -1.0]])
    actual = np.array([[100.0, 1.5], [0.1, -1.002]])
    deviation = verify.compare("a", "b", actual, expected, "close")
    assert deviation.max_relative_error == pytest.approx(0.005)
    assert deviation.images == 2
    assert not deviation.ok


@pytest.mark.parametrize("tier", verify.TIERS)
def test_tiers(tier):
    tolerance = verify.TIERS[tier]
    expected = np.array([[1.0, 0.0]])
    inside = verify.compare("a", "b", np.array([[1 + 0.9 * tolerance, 0]]), expected, tier)
    outside = verify.compare("a", "b", np.array([[1 + 1.1 * tolerance, 0]]), expected, tier)
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
        deviation = verify.compare("a", "b", actual, expected, "half")
        assert deviation.max_relative_error == math.inf
        assert not deviation.ok


def test_another_shape_is_infinitely_far():
    for shape in ((2, 4), (1, 3), (2, 1)):
        deviation = verify.compare("a", "b", np.ones(shape), np.ones((2, 3)), "half")
        assert deviation.max_relative_error == math.inf


def test_demand_names_the_worst():
    def deviation(name, error, tier):
        return verify.compare(name, "PyTorch", np.array([[1 + error]]), np.array([[1.0]]), tier)

    with pytest.raises(VerificationError) as raised:
        verify.raise_if_failed(
            [
                deviation("large", 0.02, "half"),
                deviation("worst", 0.01, "close"),
                deviation("fine", 1e-12, "exact"),
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
        rows = verify.run_module(module, images, spec, double=double)
        assert rows.shape == (18, 72)
        np.testing.assert_allclose(rows.reshape(18, 3, 4, 6).transpose(0, 2, 3, 1), expected)
    with torch.inference_mode():
        assert verify.run_module(nn.Flatten(), images[:1], spec).dtype == np.float64


class TestAgainstFloat64:
    double = np.array([[1.0, 0.0], [1.0, 0.0]])

    def test_no_closer_than_pytorch_itself_is_asked_for(self):
        single = np.array([[1.0, 0.0], [1.0, 0.01]])  # off by 1e-2 on the second image
        actual = np.array([[1.0, 0.0], [1.0, 0.03]])
        found = verify.compare_to_float64("a", actual, self.double, [single], "close")
        assert found.ok
        assert found.max_relative_error == pytest.approx(0.03)
        assert found.tolerance == pytest.approx(0.04)

    def test_each_image_has_its_own_allowance(self):
        single = np.array([[1.0, 0.0], [1.0, 0.01]])
        actual = np.array([[1.0, 0.03], [1.0, 0.0]])  # the error is on the well-behaved image
        found = verify.compare_to_float64("a", actual, self.double, [single], "close")
        assert not found.ok
        assert found.tolerance == verify.TIERS["close"]

    def test_the_worst_order_of_summation_counts_image_by_image(self):
        singles = [np.array([[1.0, 0.0], [1.0, e]]) for e in (0.001, 0.01, 0.002)]
        singles[0][0, 1] = 0.005
        for image, allowed in ((0, 0.02), (1, 0.04)):
            actual = self.double.copy()
            actual[image, 1] = 0.03
            found = verify.compare_to_float64("a", actual, self.double, singles, "close")
            assert found.tolerance == pytest.approx(allowed)
            assert found.ok is (image == 1)

    def test_nan_is_no_agreement(self):
        actual = np.array([[1.0, 0.0], [np.nan, 0.0]])
        found = verify.compare_to_float64("a", actual, self.double, [self.double], "close")
        assert not found.ok
