"""Differences by numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mnv4_deploy.layers.layer import Quantization
from mnv4_deploy.parity.differences import (
    VERDICTS,
    Tally,
    same_bits,
    verdict_of,
    within,
    worst_of,
)
from mnv4_deploy.tolerances import TOLERANCES


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_codes_become_real_values() -> None:
    tally = Tally(Quantization(0.5, 10, "int8"))
    tally.add(np.array([10, 14, 30], np.int8), np.array([10, 15, 27], np.int8))
    found = tally.result()
    assert (found.elements, found.differing, found.max_codes) == (3, 2, 3)
    assert found.max_error == 1.5
    assert found.max_relative_error == 0.15  # of (30 - 10) / 2
    # Signal 2^2 + 10^2 = 104, noise 0.5^2 + 1.5^2 = 2.5.
    assert found.sqnr_db == pytest.approx(10 * math.log10(104 / 2.5))
    assert found.verdict == "different"


def test_codes_do_not_wrap_around() -> None:
    tally = Tally()
    tally.add(np.array([-128, 0], np.int8), np.array([127, 0], np.int8))
    tally.add(np.array([0, 255], np.uint8), np.array([0, 0], np.uint8))
    assert tally.result().max_codes == 255


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (0.0, "exact"),
        (2e-5, "reordered"),
        (2e-3, "approximated"),
        (3e-2, "float16"),
        (5e-2, "different"),
    ],
)
def test_tolerances_are_of_the_largest_value(error: float, verdict: str) -> None:
    tally = Tally()
    tally.add(np.array([0.0, -4.0]), np.array([error, -4.0]))
    assert tally.result().verdict == verdict


def test_tolerances_widen() -> None:
    assert {name: tolerance.value for name, tolerance in TOLERANCES.items()} == {
        "exact": 0.0,
        "float64": 1e-9,
        "reordered": 1e-5,
        "float32": 1e-4,
        "approximated": 1e-3,
        "float16": 1e-2,
    }
    values = [tolerance.value for tolerance in TOLERANCES.values()]
    assert values == sorted(values)
    assert [name for name in TOLERANCES if name in VERDICTS] == list(VERDICTS[:-1])
    assert within("exact", "reordered")
    assert within("approximated", "approximated")
    assert not within("float16", "approximated")
    assert not within("different", "float16")


def test_the_largest_value_is_that_of_all_inferences() -> None:
    tally = Tally()
    tally.add(floats(0.0), floats(0.5))
    assert tally.max_relative_error == math.inf
    tally.add(floats(5.0), floats(5.0))
    assert tally.max_relative_error == 0.1


def test_nan_equals_nan_and_nothing_else() -> None:
    nan = float("nan")
    tally = Tally()
    assert tally.add(floats(nan, 1.0), floats(nan, 1.0)) == 0
    assert tally.result().verdict == "exact"
    assert tally.add(floats(nan, 1.0), floats(2.0, 1.0)) == 1
    assert (tally.result().max_error, tally.result().verdict) == (math.inf, "different")


def test_infinities_of_one_sign_are_equal() -> None:
    infinity = float("inf")
    tally = Tally()
    assert tally.add(floats(infinity, -infinity), floats(infinity, infinity)) == 1
    assert tally.result().max_error == math.inf


def test_bits_count_not_values() -> None:
    assert same_bits(floats(0.0), floats(-0.0)).tolist() == [False]
    tally = Tally()
    tally.add(floats(0.0, 1.0), floats(-0.0, 1.0))
    found = tally.result()
    assert (found.differing, found.max_error, found.verdict) == (1, 0.0, "reordered")


def test_other_shapes_differ_everywhere() -> None:
    tally = Tally()
    tally.add(floats(1.0, 2.0), floats(1.0))
    assert (tally.differing, tally.result().verdict) == (2, "different")


def test_nothing_differs_in_nothing() -> None:
    assert Tally().result().verdict == "exact"
    assert verdict_of(0, math.inf, floats=True) == "exact"


def test_several_outputs_are_as_bad_as_the_worst() -> None:
    one, other = Tally(), Tally(Quantization(1.0, 0, "int8"))
    one.add(floats(1.0, 1.0), floats(1.0, 1.000001))
    other.add(np.array([4], np.int8), np.array([4], np.int8))
    found = worst_of([one.result(), other.result()])
    assert (found.elements, found.differing, found.max_codes) == (3, 1, 0)
    assert found.verdict == "reordered"
    assert found.sqnr_db == one.result().sqnr_db
