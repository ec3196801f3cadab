"""Two profiles measured in turns, joined by module: what became faster, what slower, how sure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from mnv4_deploy.profiles.records.profile import Layer, ModelProfile
from mnv4_deploy.profiles.roofline.groups import NO_MODULE

CONFIDENCE_PERCENT = 95
# Of the runs of a file: low, because other programs only ever add time, yet not one sample.
PERCENTILE = 10
_RESAMPLES = 500
_MIN_CHANGE = 0.05
# Runtimes report whole microseconds: a smaller difference is rounding.
_MIN_CHANGE_US = 2.0
# A layer of 0 us is below that resolution, not infinitely fast.
_FLOOR_US = 0.5
Rounds = Sequence[Sequence[float]]


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
    a_op_types: tuple[str, ...]
    b_op_types: tuple[str, ...]
    ratio: Ratio | None
    changed: bool

    @property
    def difference_us(self) -> float:
        return self.b_us - self.a_us


@dataclass(frozen=True)
class Comparison:
    """``ratio`` is that of the wall times without profiler. Largest difference first; no
    modules where a file has no times of operators."""

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
    # A whole file is no module of the other.
    rows_a, rows_b = ({}, {}) if a.whole or b.whole else (_by_module(a), _by_module(b))
    changes = [
        _change(module, a, b, rows_a.get(module, ()), rows_b.get(module, ()), picks)
        for module in {**rows_a, **rows_b}
    ]
    return Comparison(
        a=a,
        b=b,
        ratio=_ratio(a.measurement.rounds_us, b.measurement.rounds_us, picks),
        modules=tuple(sorted(changes, key=lambda m: -abs(m.difference_us))),
    )


def _by_module(profile: ModelProfile) -> dict[str, list[Layer]]:
    """The layers that ran, by module; work of no module together."""
    found: defaultdict[str, list[Layer]] = defaultdict(list)
    for layer in profile.layers:
        if layer.samples_us:
            found[layer.module or NO_MODULE].append(layer)
    return found


def _change(
    module: str,
    a: ModelProfile,
    b: ModelProfile,
    rows_a: Sequence[Layer],
    rows_b: Sequence[Layer],
    picks: NDArray[np.intp],
) -> ModuleChange:
    a_us, b_us = (sum(layer.latency_us for layer in rows) for rows in (rows_a, rows_b))
    ratio = None
    if rows_a and rows_b:
        ratio = _ratio(_rounds(a, rows_a), _rounds(b, rows_b), picks)
    differs = abs(b_us - a_us) > max(_MIN_CHANGE_US, _MIN_CHANGE * a_us)
    sure = ratio is None or ratio.low > 1 or ratio.high < 1
    return ModuleChange(
        module=module,
        a_us=a_us,
        b_us=b_us,
        a_op_types=tuple(layer.op_type for layer in rows_a),
        b_op_types=tuple(layer.op_type for layer in rows_b),
        ratio=ratio,
        changed=differs and sure,
    )


def _rounds(profile: ModelProfile, rows: Sequence[Layer]) -> list[list[float]]:
    """The layers' time together, run by run, grouped by round."""
    runs = [sum(run) for run in zip(*(layer.samples_us for layer in rows), strict=True)]
    ends = accumulate(len(samples) for samples in profile.measurement.profiled_rounds_us)
    return [runs[start:end] for start, end in pairwise([0, *ends])]


def _ratio(a_us: Rounds, b_us: Rounds, picks: NDArray[np.intp]) -> Ratio:
    """Ratio of the 10th percentiles over all rounds, and of those over rounds drawn anew."""
    both = [_table(rounds) for rounds in (a_us, b_us)]
    low_us = [float(np.percentile(table, PERCENTILE)) for table in both]
    drawn = [np.percentile(t[picks].reshape(len(picks), -1), PERCENTILE, axis=1) for t in both]
    ratios = np.maximum(drawn[1], _FLOOR_US) / np.maximum(drawn[0], _FLOOR_US)
    tail = (100 - CONFIDENCE_PERCENT) / 2
    low, high = np.percentile(ratios, [tail, 100 - tail])
    return Ratio(max(low_us[1], _FLOOR_US) / max(low_us[0], _FLOOR_US), float(low), float(high))


def _table(rounds: Rounds) -> NDArray[np.float64]:
    """One row a round; the last one may be shorter, which its own samples fill up."""
    width = max(map(len, rounds))
    return np.array([np.resize(np.asarray(samples), width) for samples in rounds])
