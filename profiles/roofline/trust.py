"""Whether a measurement can be believed: overhead, conservation of time, noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from statistics import mean, median, quantiles

from mnv4_deploy.profiles.records.machine import Ceilings
from mnv4_deploy.profiles.records.profile import Layer, Measurement, Statistic, Trust, statistic_us
from mnv4_deploy.profiles.runtimes.timing import fastest_runs

_MAX_SPREAD_PERCENT = 5.0
_MAX_SUM_ERROR_PERCENT = 5.0
_MAX_OVERHEAD_PERCENT = 10.0
_MAX_CLOCK_CHANGE_PERCENT = 10.0
_MAX_STOLEN_PERCENT = 2.0
_MAX_OTHER_LOAD_PERCENT = 10.0
_MIN_QUARTILE_SAMPLES = 4


def trust_in(
    measurement: Measurement,
    layers: Sequence[Layer],
    ceilings: Ceilings | None,
    statistic: Statistic = "min",
    *,
    part: float = 1.0,
) -> Trust:
    """What the times add up to, and a warning for everything that casts doubt on them.

    ``part``: what the times of ``layers`` are of those that were measured.
    """
    plain = list(chain.from_iterable(measurement.rounds_us))
    profiled = list(chain.from_iterable(measurement.profiled_rounds_us))
    together = [
        sum(run) for run in zip(*(x.samples_us for x in layers if x.samples_us), strict=True)
    ]
    whole_us, layers_us = wall_us(measurement, statistic), sum(x.latency_us for x in layers)
    undisturbed_us = _fastest_mean(plain)
    trust = Trust(
        wall_us=whole_us,
        profiled_wall_us=statistic_us(profiled, statistic),
        overhead_percent=_percent(_fastest_mean(profiled), undisturbed_us) - 100,
        layers_us=layers_us,
        unattributed_us=max(0.0, whole_us - layers_us) if part < 1 else whole_us - layers_us,
        # onnxruntime's profiler leaves no layer undisturbed; its cost is taken off their minima.
        sum_percent=_percent(_fastest_mean(together), undisturbed_us)
        if measurement.format == "tflite"
        else _percent(layers_us, whole_us),
        spread_percent=_spread_percent([median(r) for r in measurement.rounds_us]),
        runs=len(profiled),
        warnings=(),
    )
    if not measurement.profiled_rounds_us:
        trust = _without_operators(trust, len(plain))
    return replace(trust, warnings=tuple(_warnings(measurement, trust, ceilings, part)))


def wall_us(measurement: Measurement, statistic: Statistic = "min") -> float:
    """The time of the model without profiler."""
    return statistic_us(list(chain.from_iterable(measurement.rounds_us)), statistic)


def _without_operators(trust: Trust, runs: int) -> Trust:
    """Nothing is said about a profiler and layers that there were not."""
    return replace(
        trust,
        profiled_wall_us=math.nan,
        overhead_percent=math.nan,
        layers_us=math.nan,
        unattributed_us=math.nan,
        sum_percent=math.nan,
        runs=runs,
    )


def _fastest_mean(times_us: Sequence[float]) -> float:
    return mean(times_us[i] for i in fastest_runs(times_us)) if times_us else 0.0


def _percent(part: float, whole: float) -> float:
    return 100 * part / whole if whole else 100.0


def _spread_percent(values: Sequence[float]) -> float:
    """Interquartile range over the median; the whole range of fewer than four values."""
    middle = median(values)
    if not middle:
        return 0.0
    if len(values) < _MIN_QUARTILE_SAMPLES:
        return 100 * (max(values) - min(values)) / middle
    low, _, high = quantiles(values, n=4, method="inclusive")
    return 100 * (high - low) / middle


def _warnings(
    measurement: Measurement, trust: Trust, ceilings: Ceilings | None, part: float
) -> Iterator[str]:
    conditions = measurement.conditions
    if trust.spread_percent > _MAX_SPREAD_PERCENT:
        yield (
            f"The machine was noisy: the batches differ by {trust.spread_percent:.0f} %. Close"
            " other programs, or give more --runs."
        )
    spins = conditions.spin_us
    change = 100 * (max(spins) / min(spins) - 1) if spins and min(spins) > 0 else 0.0
    if change > _MAX_CLOCK_CHANGE_PERCENT:
        yield f"Clock or load moved while measuring: fixed work took up to {change:.0f} % longer."
    if (conditions.steal_percent or 0.0) > _MAX_STOLEN_PERCENT:
        yield f"The hypervisor took {conditions.steal_percent:.0f} % of the CPUs' time."
    if (conditions.other_load_percent or 0.0) > _MAX_OTHER_LOAD_PERCENT:
        yield f"Other processes used {conditions.other_load_percent:.0f} % of the CPUs."
    if abs(trust.sum_percent - 100) > _MAX_SUM_ERROR_PERCENT:
        yield (
            f"The layers add up to {trust.sum_percent:.0f} % of the wall time without profiler."
        )
    if 100 * (1 / part - 1) > _MAX_SUM_ERROR_PERCENT:
        yield (
            f"The layers took {100 / part:.0f} % of the wall time with the profiler, and are shown"
            " in proportion: their order tells more than their times."
        )
    if trust.overhead_percent > _MAX_OVERHEAD_PERCENT:
        yield f"Profiling slowed the model by {trust.overhead_percent:.0f} %."
    if ceilings and spins and ceilings.spin_us > 0:
        drift = 100 * (min(spins) / ceilings.spin_us - 1)
        if abs(drift) > _MAX_CLOCK_CHANGE_PERCENT:
            faster = "slower" if drift > 0 else "faster"
            device = measurement.device
            where = f" --device {device.address.text}" if device else ""
            yield (
                f"The CPU ran {abs(drift):.0f} % {faster} than when its ceilings were measured:"
                f" mnv4-deploy machine --measure{where} measures them again."
            )
