"""Comparison: ratio, interval and joined modules on planted times."""

from __future__ import annotations

import random

import pytest

from mnv4_deploy.profiles.records.graph import ModelGraph
from mnv4_deploy.profiles.records.profile import Conditions, Layer, Measurement, ModelProfile
from mnv4_deploy.profiles.records.timing import OpProfile
from mnv4_deploy.profiles.roofline.comparison import compare_profiles
from mnv4_deploy.profiles.roofline.trust import trust_in

ROUNDS, BURST = 12, 5


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
    result = compare_profiles(A, b)
    assert result.ratio.value == pytest.approx(300 / 450, rel=0.03)
    assert result.ratio.low <= 300 / 450 * 1.02 and result.ratio.high >= 300 / 450 * 0.98
    assert [m.module for m in result.modules if m.changed] == ["block"]
    assert result.modules[0].module == "block"
    assert result.modules[0].ratio is not None
    assert result.modules[0].ratio.value == pytest.approx(0.5, rel=0.03)


def test_the_same_network_is_not_different() -> None:
    result = compare_profiles(A, profile({"stem": 100.0, "block": 300.0, "head": 50.0}, seed=3))
    assert result.ratio.low <= 1.01 and result.ratio.high >= 0.99
    assert not any(m.changed for m in result.modules)
    assert result.joined_percent == pytest.approx(100.0)


def test_modules_of_one_side_are_listed_and_lower_the_joined_share() -> None:
    result = compare_profiles(A, profile({"stem": 100.0, "other": 350.0}, seed=4))
    by_name = {m.module: m for m in result.modules}
    assert by_name["other"].ratio is None and by_name["other"].changed
    assert by_name["block"].b_us == 0.0
    assert result.joined_percent == pytest.approx(100 * 200 / 900, rel=0.03)


def test_time_is_conserved() -> None:
    b = profile({"stem": 90.0, "other": 350.0}, seed=5)
    result = compare_profiles(A, b)
    assert sum(m.a_us for m in result.modules) == pytest.approx(A.trust.layers_us)
    assert sum(m.b_us for m in result.modules) == pytest.approx(b.trust.layers_us)


def test_a_drift_that_hits_both_is_no_difference() -> None:
    """Rounds are paired: a machine that slows down fourfold slows both."""

    def drifting(scale: float) -> tuple[tuple[float, ...], ...]:
        return tuple((scale * (1 + r / 4),) * BURST for r in range(ROUNDS))

    def with_rounds(profile_: ModelProfile, rounds: tuple[tuple[float, ...], ...]) -> ModelProfile:
        measured = Measurement(**{**vars(profile_.measurement), "rounds_us": rounds})
        return ModelProfile(**{**vars(profile_), "measurement": measured})

    result = compare_profiles(with_rounds(A, drifting(100.0)), with_rounds(A, drifting(110.0)))
    assert result.ratio.value == pytest.approx(1.1)
    assert result.ratio.low == result.ratio.high == pytest.approx(1.1)


def test_the_interval_is_the_same_every_time() -> None:
    b = profile({"stem": 100.0, "block": 290.0, "head": 50.0}, seed=6)
    assert compare_profiles(A, b).ratio == compare_profiles(A, b).ratio


def test_files_that_did_not_take_turns_are_refused() -> None:
    fewer = Measurement(**{**vars(A.measurement), "rounds_us": A.measurement.rounds_us[:3]})
    with pytest.raises(ValueError, match="in turns"):
        compare_profiles(A, ModelProfile(**{**vars(A), "measurement": fewer}))
