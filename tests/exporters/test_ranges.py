import numpy as np
import pytest

from mnv4_deploy.errors import InputError, UnsupportedError
from mnv4_deploy.exporters.ranges import RangeCollector


def _range(method, *batches, **options):
    collector = RangeCollector(method, **options)
    for batch in batches:
        collector.update("x", np.asarray(batch, np.float32))
    return collector.ranges()["x"]


def _squared_error(values, bounds):
    scale = (bounds[1] - bounds[0]) / 255
    zero = np.round(-bounds[0] / scale)
    levels = np.clip(np.round(values / scale) + zero, 0, 255)
    return float(np.square((levels - zero) * scale - values).sum())


@pytest.fixture
def tailed():
    generator = np.random.default_rng(0)
    return generator.standard_t(4, 50_000).astype(np.float32)


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse", "entropy"])
def test_every_range_contains_zero_and_stays_inside_what_was_seen(method, tailed):
    for values in (tailed, np.abs(tailed) + 1, -np.abs(tailed) - 1):
        low, high = _range(method, *np.array_split(values, 7))
        assert min(values.min(), 0) <= low <= 0 <= high <= max(values.max(), 0)
        assert low < high


def test_minmax_is_exact(tailed):
    assert _range("minmax", *np.array_split(tailed, 9)) == (tailed.min(), tailed.max())


def test_percentile_agrees_with_numpy(tailed):
    low, high = _range("percentile", *np.array_split(tailed, 9), percentile=99)
    step = float(tailed.max() - tailed.min()) / 2048
    assert low == pytest.approx(np.percentile(tailed, 0.5), abs=2 * step)
    assert high == pytest.approx(np.percentile(tailed, 99.5), abs=2 * step)


def test_mse_beats_minmax_and_is_close_to_brute_force(tailed):
    found = _squared_error(tailed, _range("mse", *np.array_split(tailed, 9)))
    low, high = float(tailed.min()), float(tailed.max())
    grid = np.linspace(0.1, 1, 25)
    best = min(_squared_error(tailed, (low * a, high * b)) for a in grid for b in grid)
    assert found < 0.95 * _squared_error(tailed, (low, high))
    assert found < 1.05 * best


def test_entropy_clips_a_lonely_outlier():
    values = np.random.default_rng(0).normal(size=100_000)
    low, high = _range("entropy", np.append(values, 12.0))
    assert high < 12
    assert low < -2


def test_growth_loses_no_value_and_order_hardly_matters(tailed):
    parts = np.array_split(np.sort(tailed), 20)
    forward, backward = _range("mse", *parts), _range("mse", *parts[::-1])
    together = _squared_error(tailed, _range("mse", tailed))
    assert _squared_error(tailed, forward) == pytest.approx(together, rel=0.05)
    assert _squared_error(tailed, backward) == pytest.approx(together, rel=0.05)


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0])
def test_constant_tensors(value):
    expected = (min(value, 0), max(value, 0))
    for method in ("minmax", "percentile", "mse", "entropy"):
        assert _range(method, [value] * 5, [value]) == expected


def test_refusals():
    with pytest.raises(InputError, match="not finite"):
        RangeCollector().update("x", np.array([1, np.nan]))
    with pytest.raises(UnsupportedError, match=r"choose one of .*minmax"):
        RangeCollector("best")
    with pytest.raises(UnsupportedError, match="percentile"):
        RangeCollector("percentile", percentile=101)
