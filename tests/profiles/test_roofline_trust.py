"""Trust: conservation of time, overhead, and a warning for each thing that casts doubt."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mnv4_deploy.profiles.records.graph import ModelGraph
from mnv4_deploy.profiles.records.machine import Ceilings
from mnv4_deploy.profiles.records.profile import Conditions, Layer, Measurement, Spread
from mnv4_deploy.profiles.records.timing import OpProfile
from mnv4_deploy.profiles.roofline.trust import trust_in


def layer(latency_us: float) -> Layer:
    return Layer(
        "ADD", "n", "m", "float32", "xnnpack", 0, (0,), (0,), samples_us=(latency_us,) * 4
    )


def measurement(rounds, profiled, spin=(100.0, 101.0), steal=0.0, other=0.0) -> Measurement:
    return Measurement(
        path="f.tflite",
        format="tflite",
        runtime="r",
        size_bytes=1,
        sha256="",
        threads=1,
        cpus=(0,),
        graph=ModelGraph("tflite", (), (), (), ()),
        profile=OpProfile("f.tflite", "r", 1, ()),
        layers=(),
        rounds_us=rounds,
        profiled_rounds_us=profiled,
        conditions=Conditions(spin, steal, other),
    )


QUIET = measurement(((100.0, 101.0), (99.0, 100.0)), ((102.0, 103.0), (101.0, 102.0)))
CEILINGS = Ceilings(1, {}, (), {}, spin_us=100.0)


def test_a_quiet_measurement_has_no_warnings() -> None:
    trust = trust_in(QUIET, [layer(60.0), layer(39.0)], CEILINGS)
    assert trust.warnings == ()
    assert (trust.wall_us, trust.layers_us, trust.unattributed_us) == (99.0, 99.0, 0.0)
    assert trust.sum_percent == pytest.approx(100.0)
    median = trust_in(QUIET, [layer(60.0), layer(39.0)], CEILINGS, "p50")
    assert (median.wall_us, median.unattributed_us) == (100.0, 1.0)
    assert trust.runs == 4


def test_overhead_compares_undisturbed_runs() -> None:
    """The machine halves its speed after the first round; profiling costs 10 % in each."""
    drifting = measurement(((100.0,), (200.0,), (200.0,)), ((110.0,), (220.0,), (220.0,)))
    assert trust_in(drifting, [layer(150.0)], None).overhead_percent == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("changed", "layers_us", "word"),
    [
        (replace(QUIET, rounds_us=((100.0,), (130.0,))), 115.0, "noisy"),
        (replace(QUIET, conditions=Conditions((100.0, 120.0))), 100.0, "Clock or load moved"),
        (replace(QUIET, conditions=Conditions((100.0,), 7.0)), 100.0, "hypervisor"),
        (replace(QUIET, conditions=Conditions((100.0,), 0.0, 40.0)), 100.0, "Other processes"),
        (QUIET, 79.2, "add up to 80 %"),
        (QUIET, 118.8, "add up to 120 %"),
        (replace(QUIET, profiled_rounds_us=((128.7,), (128.7,))), 100.0, "slowed the model by 30"),
        (replace(QUIET, conditions=Conditions((150.0,))), 100.0, "50 % slower than when"),
        (replace(QUIET, conditions=Conditions((50.0,))), 100.0, "50 % faster than when"),
    ],
)
def test_each_doubt_is_named(changed: Measurement, layers_us: float, word: str) -> None:
    warnings = trust_in(changed, [layer(layers_us)], CEILINGS).warnings
    assert any(word in warning for warning in warnings), warnings


def test_spread_of_samples() -> None:
    spread = Spread.of([float(n) for n in range(1, 12)])
    assert (spread.p10, spread.p50, spread.p90) == pytest.approx((2.0, 6.0, 10.0))
    assert (spread.min, spread.max, spread.mean) == (1.0, 11.0, 6.0)
    assert Spread.of([]) == Spread(0, 0, 0, 0, 0, 0)
    assert Spread.of([3.0]).p90 == 3.0
