"""Whether a measurement can be believed: overhead, conservation of time, noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median, quantiles

from mnv4_deploy.machine_records import Ceilings
from mnv4_deploy.profile_records import Layer, Measurement, Trust

_MAX_SPREAD_PERCENT = 5.0
_MAX_SUM_ERROR_PERCENT = 5.0
_MAX_OVERHEAD_PERCENT = 10.0
_MAX_CLOCK_CHANGE_PERCENT = 5.0
_MAX_STOLEN_PERCENT = 2.0
_MAX_OTHER_LOAD_PERCENT = 10.0
_MIN_QUARTILE_SAMPLES = 4


def trust_in(
    measurement: Measurement, layers: Sequence[Layer], ceilings: Ceilings | None
) -> Trust:
    """Medians, what does not add up, and a warning for everything that casts doubt."""
    wall_us = _median_of(measurement.rounds_us)
    profiled_us = _median_of(measurement.profiled_rounds_us)
    layers_us = sum(layer.latency_us for layer in layers)
    trust = Trust(
        wall_us=wall_us,
        profiled_wall_us=profiled_us,
        overhead_percent=_overhead_percent(measurement),
        layers_us=layers_us,
        unattributed_us=wall_us - layers_us,
        spread_percent=_spread_percent([median(r) for r in measurement.rounds_us]),
        runs=sum(len(r) for r in measurement.profiled_rounds_us),
        warnings=(),
    )
    return Trust(**{**vars(trust), "warnings": tuple(_warnings(measurement, trust, ceilings))})


def _median_of(rounds: Sequence[Sequence[float]]) -> float:
    return median(sample for samples in rounds for sample in samples)


def _overhead_percent(measurement: Measurement) -> float:
    """Median over the rounds of profiled over plain, so that a drifting machine drifts in both."""
    ratios = [
        median(profiled) / median(plain)
        for plain, profiled in zip(
            measurement.rounds_us, measurement.profiled_rounds_us, strict=True
        )
    ]
    return 100 * (median(ratios) - 1)


def _spread_percent(values: Sequence[float]) -> float:
    """Interquartile range over the median; the whole range of fewer than four values."""
    middle = median(values)
    if not middle:
        return 0.0
    if len(values) < _MIN_QUARTILE_SAMPLES:
        return 100 * (max(values) - min(values)) / middle
    low, _, high = quantiles(values, n=4, method="inclusive")
    return 100 * (high - low) / middle


def _warnings(measurement: Measurement, trust: Trust, ceilings: Ceilings | None) -> Iterator[str]:
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
            f"The layers add up to {trust.sum_percent:.0f} % of the wall time without profiler:"
            " the difference is the row (unattributed)."
        )
    if trust.overhead_percent > _MAX_OVERHEAD_PERCENT:
        yield f"Profiling slowed the model by {trust.overhead_percent:.0f} %."
    if ceilings and spins and ceilings.spin_us > 0:
        drift = 100 * (median(spins) / ceilings.spin_us - 1)
        if abs(drift) > 2 * _MAX_CLOCK_CHANGE_PERCENT:
            faster = "slower" if drift > 0 else "faster"
            yield (
                f"The CPU ran {abs(drift):.0f} % {faster} than when its ceilings were measured:"
                " mnv4-deploy machine --measure measures them again."
            )
