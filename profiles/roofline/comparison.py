"""Two files measured in turns, joined by module: what became faster, what slower, how sure."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from statistics import median

from mnv4_deploy.profiles.measure.sessions import Session
from mnv4_deploy.profiles.records.profile import (
    Layer,
    Measurement,
    ModelProfile,
    Statistic,
    statistic_us,
)
from mnv4_deploy.profiles.roofline.groups import NO_MODULE
from mnv4_deploy.profiles.roofline.interval import crossover_interval

CONFIDENCE_PERCENT = 95.0
# Of the runs of a file in a session: low, because other programs only ever add time, yet not one
# sample.
STATISTIC: Statistic = "p10"
SHOWN: tuple[Statistic, ...] = ("min", "p10", "p50")
_MIN_CHANGE = 0.05
# Runtimes report whole microseconds: a smaller difference is rounding.
_MIN_CHANGE_US = 2.0
# A layer of 0 us is below that resolution, not infinitely fast.
_FLOOR_US = 0.5
# Of all CPUs: what a system does by itself.
_BACKGROUND = 0.1
# What runs beside takes caches, memory and half of a core's units, which slows two networks by
# unequal parts: by up to a fifth at full load (benchmarks/null_compare.py).
_UNEQUAL_SLOWDOWN = 0.25


@dataclass(frozen=True)
class Ratio:
    """B over A, the geometric mean of the sessions, with the ends of its confidence interval;
    ``high`` is infinite where nothing can be said."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Figure:
    """One statistic of the wall times of all runs without profiler."""

    statistic: Statistic
    a_us: float
    b_us: float

    @property
    def ratio(self) -> float:
        return max(self.b_us, _FLOOR_US) / max(self.a_us, _FLOOR_US)


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
    """``ratio`` is that of the 10th percentiles of the runs without profiler, of their CPU times
    (``of_cpu_time``) or wall times; ``session_ratios`` are those of each session. Largest
    difference first; no modules where a file has no times of operators.

    ``confidence_percent`` is that of each interval alone. They have been looked at up to
    ``looks`` times, which together leaves 95 %. All are wider by ``floor``, a part of the ratio,
    because others used ``load_percent`` of the CPUs (the median session). ``disturbed`` says why
    there can be no interval, "" where there is one.
    """

    a: ModelProfile
    b: ModelProfile
    ratio: Ratio
    modules: tuple[ModuleChange, ...]
    sessions: tuple[Session, ...]
    session_ratios: tuple[float, ...]
    of_cpu_time: bool
    load_percent: float
    looks: int = 1
    disturbed: str = ""

    @property
    def confidence_percent(self) -> float:
        return confidence_of(self.looks)

    @property
    def floor(self) -> float:
        return math.expm1(_floor(self.load_percent))

    @property
    def joined_percent(self) -> float:
        """Share of the layers' time in modules that both files have."""
        total = sum(m.a_us + m.b_us for m in self.modules)
        both = sum(m.a_us + m.b_us for m in self.modules if m.ratio is not None)
        return 100 * both / total if total else 0.0

    @property
    def figures(self) -> tuple[Figure, ...]:
        """The fastest run, the 10th percentile and the median."""
        a, b = self.a.wall_spread, self.b.wall_spread
        return tuple(Figure(name, getattr(a, name), getattr(b, name)) for name in SHOWN)


def confidence_of(looks: int) -> float:
    """Percent of one interval, of which ``looks`` are all right in 95 % (Bonferroni)."""
    return 100 - (100 - CONFIDENCE_PERCENT) / looks


def compare_profiles(
    a: ModelProfile, b: ModelProfile, sessions: Sequence[Session], *, looks: int = 1
) -> Comparison:
    """``b`` against ``a``, which took turns in ``sessions``.

    Raises ValueError for measurements with other rounds than those.
    """
    rounds = [len(profile.measurement.rounds_us) for profile in (a, b)]
    if rounds != [sum(session.rounds for session in sessions)] * 2:
        raise ValueError("only files that were measured in turns can be compared")
    of_cpu_time = all(_has_cpu_times(profile.measurement) for profile in (a, b))
    load = _load_percent(sessions)
    disturbed = "" if of_cpu_time else _disturbance(a.measurement, b.measurement, load)
    floor = math.inf if disturbed else _floor(load)
    judge = _Judge(sessions, confidence_of(looks), floor)
    times = [_run_times(p.measurement, of_cpu_time) for p in (a, b)]
    counts = [session.rounds for session in sessions]
    logs = judge.logs(*(list(_by_count(each, counts)) for each in times))
    # A whole file is no module of the other.
    rows_a, rows_b = ({}, {}) if a.whole or b.whole else (_by_module(a), _by_module(b))
    changes = [
        _change(module, a, b, rows_a.get(module, ()), rows_b.get(module, ()), judge)
        for module in {**rows_a, **rows_b}
    ]
    return Comparison(
        a=a,
        b=b,
        ratio=judge.ratio(logs),
        modules=tuple(sorted(changes, key=lambda m: -abs(m.difference_us))),
        sessions=tuple(sessions),
        session_ratios=tuple(map(math.exp, logs)),
        of_cpu_time=of_cpu_time,
        load_percent=load,
        looks=looks,
        disturbed=disturbed,
    )


@dataclass(frozen=True)
class _Judge:
    """``floor`` is added to both sides of the logarithm of a ratio."""

    sessions: Sequence[Session]
    confidence_percent: float
    floor: float

    def logs(
        self, a_us: Sequence[Sequence[float]], b_us: Sequence[Sequence[float]]
    ) -> list[float]:
        """The logarithm of B over A in each session, of whose runs these are the times."""
        low_us = [
            [max(statistic_us(times, STATISTIC), _FLOOR_US) for times in runs]
            for runs in (a_us, b_us)
        ]
        return [math.log(b / a) for a, b in zip(*low_us, strict=True)]

    def ratio(self, logs: Sequence[float]) -> Ratio:
        swapped = [session.b_first for session in self.sessions]
        middle, low, high = crossover_interval(logs, swapped, self.confidence_percent)
        return Ratio(math.exp(middle), math.exp(low - self.floor), math.exp(high + self.floor))


def _has_cpu_times(measured: Measurement) -> bool:
    """Whether they say what a run takes: with more threads they add up over the threads."""
    return measured.threads == 1 and len(measured.cpu_rounds_us) == len(measured.rounds_us)


def _run_times(measured: Measurement, of_cpu_time: bool) -> list[list[float]]:
    """The times of the runs, by round.

    On a machine that does nothing else CPU time is wall time. On one that does it is without the
    time in which others had the processor, of which a long run meets more than a short one.
    """
    if not of_cpu_time:
        return [list(burst) for burst in measured.rounds_us]
    both = zip(measured.rounds_us, measured.cpu_rounds_us, strict=True)
    return [[min(pair) for pair in zip(*bursts, strict=True)] for bursts in both]


def _load_percent(sessions: Sequence[Session]) -> float:
    """What other processes and a hypervisor took of all CPUs, as far as the system tells."""
    return median(
        (session.conditions.other_load_percent or 0) + (session.conditions.steal_percent or 0)
        for session in sessions
    )


def _floor(load_percent: float) -> float:
    return _UNEQUAL_SLOWDOWN * min(load_percent, 100) / 100


def _disturbance(a: Measurement, b: Measurement, load_percent: float) -> str:
    """Why wall times say nothing: others want more CPUs than are left. "" where they do not."""
    cpus, threads = os.cpu_count() or 1, max(a.threads, b.threads)
    left = len(a.cpus) - threads + _BACKGROUND * cpus
    if cpus * load_percent / 100 <= left:
        return ""
    return (
        f"Other processes used {load_percent:.0f} % of the CPUs, so that too few were left for "
        f"--threads {threads}: such times do not compare. Close other programs."
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
    judge: _Judge,
) -> ModuleChange:
    a_us, b_us = (sum(layer.latency_us for layer in rows) for rows in (rows_a, rows_b))
    ratio = None
    if rows_a and rows_b:
        runs = (_by_session(p, rows, judge, i) for i, p, rows in ((0, a, rows_a), (1, b, rows_b)))
        ratio = judge.ratio(judge.logs(*runs))
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


def _by_session(
    profile: ModelProfile, rows: Sequence[Layer], judge: _Judge, side: int
) -> list[list[float]]:
    """The layers' time together, run by run, grouped by session."""
    runs = [sum(run) for run in zip(*(layer.samples_us for layer in rows), strict=True)]
    ends = accumulate(len(samples) for samples in profile.measurement.profiled_rounds_us)
    rounds = [runs[start:end] for start, end in pairwise([0, *ends])]
    return list(_by_count(rounds, [s.profiled_rounds[side] for s in judge.sessions]))


def _by_count(rounds: Sequence[Sequence[float]], counts: Sequence[int]) -> Iterator[list[float]]:
    """The times in the first rounds, in the next ones and so on, as many as ``counts`` says."""
    for start, end in pairwise(accumulate(counts, initial=0)):
        yield list(chain.from_iterable(rounds[start:end]))
