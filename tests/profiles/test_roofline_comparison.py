"""Comparison: ratio, interval and joined modules on planted times."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from mnv4_deploy.profiles.measure.sessions import Session, opens_b_first
from mnv4_deploy.profiles.records.graph import ModelGraph
from mnv4_deploy.profiles.records.profile import Conditions, Layer, Measurement, ModelProfile
from mnv4_deploy.profiles.records.timing import OpProfile
from mnv4_deploy.profiles.roofline.comparison import Ratio, compare_profiles
from mnv4_deploy.profiles.roofline.trust import trust_in
from mnv4_deploy.profiles.roofline.verdict import outcome_of, verdict_of

ROUNDS, BURST = 16, 5
QUIET = Conditions((1.0,), 0.0, 0.0)
SESSIONS = tuple(Session(opens_b_first(i), 2, (2, 2), QUIET) for i in range(8))


def profile(modules: dict[str, float], *, seed: int, noise: float = 0.02) -> ModelProfile:
    """A profile whose layers take about the given microseconds, noisy in every run."""
    generator = random.Random(seed)

    def samples(us: float) -> tuple[float, ...]:
        return tuple(us * (1 + generator.gauss(0, noise)) for _ in range(ROUNDS * BURST))

    layers = tuple(
        Layer(
            "CONV_2D",
            name,
            name,
            "float32",
            "xnnpack",
            0,
            (i,),
            (i,),
            i,
            samples_us=samples(us),
            statistic="p10",
        )
        for i, (name, us) in enumerate(modules.items())
    )
    total = [sum(run) for run in zip(*(x.samples_us for x in layers), strict=True)]
    rounds = tuple(tuple(total[i : i + BURST]) for i in range(0, len(total), BURST))
    measured = Measurement(
        "f",
        "tflite",
        "r",
        1,
        "",
        1,
        (0,),
        ModelGraph("tflite", (), (), (), ()),
        OpProfile("f", "r", 1, ()),
        (),
        rounds,
        rounds,
        Conditions((1.0,)),
    )
    trust = trust_in(measured, layers, None, "p10")
    return ModelProfile(measured, layers, (), trust, "p10", None, ())


A = profile({"stem": 100.0, "block": 300.0, "head": 50.0}, seed=1)


def test_a_planted_speed_up_is_found_and_the_rest_is_not_blamed() -> None:
    b = profile({"stem": 100.0, "block": 150.0, "head": 50.0}, seed=2)
    result = compare_profiles(A, b, SESSIONS)
    assert result.ratio.value == pytest.approx(300 / 450, rel=0.03)
    assert result.ratio.low <= 300 / 450 * 1.02 and result.ratio.high >= 300 / 450 * 0.98
    assert [m.module for m in result.modules if m.changed] == ["block"]
    assert result.modules[0].module == "block"
    assert result.modules[0].ratio is not None
    assert result.modules[0].ratio.value == pytest.approx(0.5, rel=0.03)


def test_the_same_network_is_not_different() -> None:
    result = compare_profiles(
        A, profile({"stem": 100.0, "block": 300.0, "head": 50.0}, seed=3), SESSIONS
    )
    assert result.ratio.low <= 1.01 and result.ratio.high >= 0.99
    assert not any(m.changed for m in result.modules)
    assert result.joined_percent == pytest.approx(100.0)


def test_modules_of_one_side_are_listed_and_lower_the_joined_share() -> None:
    result = compare_profiles(A, profile({"stem": 100.0, "other": 350.0}, seed=4), SESSIONS)
    by_name = {m.module: m for m in result.modules}
    assert by_name["other"].ratio is None and by_name["other"].changed
    assert by_name["block"].b_us == 0.0
    assert result.joined_percent == pytest.approx(100 * 200 / 900, rel=0.03)


def test_time_is_conserved() -> None:
    b = profile({"stem": 90.0, "other": 350.0}, seed=5)
    result = compare_profiles(A, b, SESSIONS)
    assert sum(m.a_us for m in result.modules) == pytest.approx(A.trust.layers_us)
    assert sum(m.b_us for m in result.modules) == pytest.approx(b.trust.layers_us)


def with_times(
    profile_: ModelProfile,
    rounds: tuple[tuple[float, ...], ...],
    cpu: tuple[tuple[float, ...], ...] = (),
    threads: int = 1,
) -> ModelProfile:
    measured = replace(profile_.measurement, rounds_us=rounds, cpu_rounds_us=cpu, threads=threads)
    return replace(profile_, measurement=measured)


def test_a_drift_that_hits_both_is_no_difference() -> None:
    """Sessions are paired: a machine that slows down fourfold slows both."""

    def drifting(scale: float) -> tuple[tuple[float, ...], ...]:
        return tuple((scale * (1 + r // 2 / 4),) * BURST for r in range(ROUNDS))

    result = compare_profiles(
        with_times(A, drifting(100.0)), with_times(A, drifting(110.0)), SESSIONS
    )
    assert result.ratio.value == pytest.approx(1.1)
    assert result.ratio.low == pytest.approx(1.1) and result.ratio.high == pytest.approx(1.1)


def test_sessions_are_the_unit_and_not_their_rounds() -> None:
    """Two sessions in which B was 10 % slower and two in which it was 10 % faster, each measured
    without any noise, say nothing of the next one."""
    sessions = tuple(Session(b_first, 4, (4, 4), QUIET) for b_first in (False, True, True, False))
    factors = (1.1, 1.1, 1 / 1.1, 1 / 1.1)
    ones = with_times(A, ((100.0,) * BURST,) * ROUNDS)
    b = with_times(A, tuple((100.0 * factors[r // 4],) * BURST for r in range(ROUNDS)))
    result = compare_profiles(ones, b, sessions)
    assert result.session_ratios == pytest.approx(factors)
    # By hand: each order has +l and -l of l = ln 1.1, so that the variance is 4 l^2 / 2 degrees,
    # the error sqrt(2 l^2 (1/2 + 1/2)) / 2, and t is 4.3027.
    reach = 4.302653 * math.sqrt(2) * math.log(1.1) / 2
    assert result.ratio.value == pytest.approx(1.0)
    assert result.ratio.high == pytest.approx(math.exp(reach))
    assert result.ratio.low == pytest.approx(math.exp(-reach))


def test_time_that_others_had_the_processor_does_not_count() -> None:
    """The longer file meets every turn of another program, the shorter one few."""
    short = with_times(
        A, ((30.0, 30.0, 30.0, 30.0, 4030.0),) * ROUNDS, ((30.0,) * BURST,) * ROUNDS
    )
    long = with_times(A, ((4100.0,) * BURST,) * ROUNDS, ((100.0,) * BURST,) * ROUNDS)
    result = compare_profiles(long, short, SESSIONS)
    assert result.of_cpu_time
    assert (result.ratio.low, result.ratio.high) == pytest.approx((0.3, 0.3))
    assert [f.ratio for f in result.figures] == pytest.approx([30 / 4100] * 3)  # as they were
    without = compare_profiles(
        with_times(A, long.measurement.rounds_us),
        with_times(A, short.measurement.rounds_us),
        SESSIONS,
    )
    assert not without.of_cpu_time


def test_with_all_cpus_wanted_by_others_there_is_no_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    cpu = ((100.0,) * BURST,) * ROUNDS  # of two threads: no time of a run
    both = with_times(A, ((60.0,) * BURST,) * ROUNDS, cpu, threads=2)
    both = replace(both, measurement=replace(both.measurement, cpus=(0, 1)))
    for load, bounded in ((2.0, True), (40.0, False)):
        sessions = [replace(s, conditions=Conditions((1.0,), 1.0, load)) for s in SESSIONS]
        result = compare_profiles(both, both, sessions)
        assert math.isfinite(result.ratio.high) is bounded
        assert (result.disturbed == "") is bounded
        assert outcome_of(result.ratio, 1.05) == ("passed" if bounded else "inconclusive")
        assert verdict_of(result.ratio) == "unclear"


def test_load_that_slows_files_by_unequal_parts_is_in_the_interval() -> None:
    """A quarter at full load, in the logarithm; half of the load, half of that."""
    times = with_times(A, ((100.0,) * BURST,) * ROUNDS, ((100.0,) * BURST,) * ROUNDS)
    for other, steal, reach in ((0.0, 0.0, 0.0), (40.0, 10.0, 0.125), (99.0, 30.0, 0.25)):
        sessions = [replace(s, conditions=Conditions((1.0,), steal, other)) for s in SESSIONS]
        result = compare_profiles(times, times, sessions)
        assert math.log(result.ratio.high) == pytest.approx(reach, abs=1e-9)
        assert math.log(result.ratio.low) == pytest.approx(-reach, abs=1e-9)
        assert result.floor == pytest.approx(math.exp(reach) - 1)
        assert result.load_percent == other + steal


def test_fastest_and_median_stand_side_by_side() -> None:
    a = with_times(A, ((10.0, 20.0, 30.0, 40.0, 50.0),) * ROUNDS)
    b = with_times(A, ((30.0, 30.0, 45.0, 50.0, 90.0),) * ROUNDS)
    found = {f.statistic: (f.a_us, f.b_us) for f in compare_profiles(a, b, SESSIONS).figures}
    assert (found["min"], found["p50"]) == ((10.0, 30.0), (30.0, 45.0))


@pytest.mark.parametrize(
    ("low", "high", "verdict", "at_1", "at_1_05"),
    [
        (0.8, 0.9, "faster", "passed", "passed"),
        (0.99, 1.02, "unclear", "inconclusive", "passed"),
        (1.01, 1.02, "slower", "failed", "passed"),
        (1.01, 1.05, "slower", "failed", "passed"),
        (1.01, 1.2, "slower", "failed", "inconclusive"),
        (1.06, 1.2, "slower", "failed", "failed"),
        (0.0, math.inf, "unclear", "inconclusive", "inconclusive"),
    ],
)
def test_the_ends_of_the_interval_judge(low, high, verdict, at_1, at_1_05) -> None:
    ratio = Ratio(math.sqrt(low * high) if low else 1.0, low, high)
    assert verdict_of(ratio) == verdict
    assert outcome_of(ratio, 1.0) == at_1
    assert outcome_of(ratio, 1.05) == at_1_05


def test_files_that_did_not_take_turns_are_refused() -> None:
    fewer = with_times(A, A.measurement.rounds_us[:3])
    with pytest.raises(ValueError, match="in turns"):
        compare_profiles(A, fewer, SESSIONS)
