"""Two profiles measured in turns, joined by module: what became faster, what slower, how sure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from mnv4_deploy.profile_records import Measurement, ModelProfile
from mnv4_deploy.profiles.roofline.groups import NO_MODULE

CONFIDENCE_PERCENT = 95
_RESAMPLES = 2000
_MIN_CHANGE = 0.05
# Runtimes report whole microseconds: a smaller difference is rounding.
_MIN_CHANGE_US = 2.0


@dataclass(frozen=True)
class Ratio:
    """B over A, with the confidence interval of a bootstrap over the rounds."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ModuleChange:
    """The layers of one module in both files. ``ratio`` is None where one side has none.

    ``changed``: the interval excludes 1 and the medians differ by more than 5 % and 2 us, or
    one side has no such module.
    """

    module: str
    a_us: float
    b_us: float
    a_kinds: tuple[str, ...]
    b_kinds: tuple[str, ...]
    ratio: Ratio | None
    changed: bool

    @property
    def difference_us(self) -> float:
        return self.b_us - self.a_us


@dataclass(frozen=True)
class Comparison:
    """``ratio`` is that of the wall times without profiler. Largest difference first."""

    a: ModelProfile
    b: ModelProfile
    ratio: Ratio
    modules: tuple[ModuleChange, ...]

    @property
    def joined_percent(self) -> float:
        """Share of the layers' time in modules that both files have."""
        total = sum(m.a_us + m.b_us for m in self.modules)
        both = sum(m.a_us + m.b_us for m in self.modules if m.ratio is not None)
        return 100 * both / total if total else 0.0


def compare_profiles(a: ModelProfile, b: ModelProfile, *, seed: int = 0) -> Comparison:
    """``b`` against ``a``, which took turns in the same rounds.

    Raises ValueError for measurements with different rounds.
    """
    if len(a.measurement.rounds_us) != len(b.measurement.rounds_us):
        raise ValueError("only files that were measured in turns can be compared")
    generator = np.random.default_rng(seed)
    picks = generator.integers(
        0, len(a.measurement.rounds_us), (_RESAMPLES, len(a.measurement.rounds_us))
    )
    rows_a, rows_b = _by_module(a), _by_module(b)
    changes = [
        _change(module, a, b, rows_a.get(module, ()), rows_b.get(module, ()), picks)
        for module in {**rows_a, **rows_b}
    ]
    return Comparison(
        a=a,
        b=b,
        ratio=_ratio(
            [median(r) for r in a.measurement.rounds_us],
            [median(r) for r in b.measurement.rounds_us],
            picks,
        ),
        modules=tuple(sorted(changes, key=lambda m: -abs(m.difference_us))),
    )


def _by_module(profile: ModelProfile) -> dict[str, tuple[int, ...]]:
    """Indices of the layers that ran, by module; work of no module together."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for layer in profile.layers:
        if layer.samples_us:
            found[layer.module or NO_MODULE].append(layer.index)
    return {module: tuple(indices) for module, indices in found.items()}


def _change(
    module: str,
    a: ModelProfile,
    b: ModelProfile,
    rows_a: Sequence[int],
    rows_b: Sequence[int],
    picks: np.ndarray,
) -> ModuleChange:
    a_us, b_us = (
        sum(p.layers[i].latency_us for i in rows) for p, rows in ((a, rows_a), (b, rows_b))
    )
    ratio = None
    if rows_a and rows_b:
        ratio = _ratio(_round_medians(a, rows_a), _round_medians(b, rows_b), picks)
    differs = abs(b_us - a_us) > max(_MIN_CHANGE_US, _MIN_CHANGE * a_us)
    sure = ratio is None or ratio.low > 1 or ratio.high < 1
    return ModuleChange(
        module=module,
        a_us=a_us,
        b_us=b_us,
        a_kinds=tuple(a.layers[i].kind for i in rows_a),
        b_kinds=tuple(b.layers[i].kind for i in rows_b),
        ratio=ratio,
        changed=differs and sure,
    )


def _round_medians(profile: ModelProfile, rows: Sequence[int]) -> list[float]:
    """Median over each round of the layers' time together."""
    runs = [sum(run) for run in zip(*(profile.layers[i].samples_us for i in rows), strict=True)]
    medians, start = [], 0
    for length in _round_lengths(profile.measurement):
        medians.append(median(runs[start : start + length]))
        start += length
    return medians


def _round_lengths(measurement: Measurement) -> list[int]:
    return [len(samples) for samples in measurement.profiled_rounds_us]


def _ratio(a_us: Sequence[float], b_us: Sequence[float], picks: np.ndarray) -> Ratio:
    """Median of the rounds' ratios, and the percentiles of its bootstrap."""
    # A layer of 0 us is below the profiler's resolution, not infinitely fast.
    floor = 0.5
    ratios = np.maximum(np.asarray(b_us), floor) / np.maximum(np.asarray(a_us), floor)
    tail = (100 - CONFIDENCE_PERCENT) / 2
    low, high = np.percentile(np.median(ratios[picks], axis=1), [tail, 100 - tail])
    return Ratio(float(np.median(ratios)), float(low), float(high))
