"""How layers rank over devices, against ranks counted by hand and Spearman's own formula."""

from dataclasses import replace

import numpy as np
import pytest

from mnv4_deploy.profiles.roofline.ranking import (
    ModuleOnDevice,
    RankedModule,
    rank_correlation,
    rank_modules,
)
from tests.profiles.profile_factory import make_profile


def slower(profile, module, times):
    layers = tuple(
        replace(layer, samples_us=tuple(us * times for us in layer.samples_us))
        if layer.module == module
        else layer
        for layer in profile.layers
    )
    return replace(profile, layers=layers)


def test_modules_are_summed_ranked_and_shared():
    profile = make_profile()
    modules = rank_modules([profile])
    by_name = {module.module: module.places[0] for module in modules}
    attention = [layer for layer in profile.layers if layer.module == "blocks.1.1.attn"]
    assert by_name["blocks.1.1.attn"].latency_us == sum(layer.latency_us for layer in attention)
    times = [module.places[0].latency_us for module in modules]
    assert times == sorted(times, reverse=True)
    assert [module.places[0].rank for module in modules] == list(range(1, len(modules) + 1))
    shares = [place.share_percent for place in by_name.values()]
    assert sum(shares) == pytest.approx(100)


def test_the_bound_is_that_of_the_slowest_layer_and_memory_names_its_level():
    bounds = {m.module: m.places[0].bound for m in rank_modules([make_profile()])}
    assert bounds["conv_stem"] == "compute"
    assert bounds["blocks.0.0.dw_start"] == "L2"
    assert bounds["blocks.1.1.attn"] == ""  # its slowest layer's bound is unknown


def test_without_ceilings_there_are_no_bounds():
    modules = rank_modules([make_profile(machine=None)])
    assert {m.places[0].bound for m in modules} == {""}


def test_a_module_slow_on_one_device_only_changes_its_rank_there():
    here = make_profile()
    there = slower(here, "classifier", 100.0)
    modules = {module.module: module for module in rank_modules([here, there])}
    first, second = modules["classifier"].places
    assert first.rank > 1
    assert second.rank == 1
    assert second.latency_us == pytest.approx(100 * first.latency_us)


def test_a_module_that_one_device_does_not_run_has_no_place_there():
    here = make_profile()
    layers = tuple(
        replace(layer, samples_us=()) if layer.module == "classifier" else layer
        for layer in here.layers
    )
    modules = {m.module: m for m in rank_modules([here, replace(here, layers=layers)])}
    assert modules["classifier"].places[1] is None
    assert modules["classifier"].mean_share_percent == pytest.approx(
        modules["classifier"].places[0].share_percent / 2
    )


def ranked(*pairs):
    def place(us):
        return None if us is None else ModuleOnDevice(us, 0.0, 1, "")

    return [RankedModule(str(i), (), (place(a), place(b))) for i, (a, b) in enumerate(pairs)]


@pytest.mark.parametrize(
    ("pairs", "rho"),
    [
        ([(1, 10), (2, 20), (3, 30)], 1.0),
        ([(1, 30), (2, 20), (3, 10)], -1.0),
        # 1 - 6 * sum(d^2) / (n * (n^2 - 1)) with d = 1, -1, 0, 0
        ([(1, 2), (2, 1), (3, 3), (4, 4)], 1 - 6 * 2 / (4 * 15)),
    ],
)
def test_rank_correlation(pairs, rho):
    assert rank_correlation(ranked(*pairs), 0, 1) == pytest.approx(rho)


def test_ties_share_their_mean_rank():
    a, b = [1, 1, 2, 3, 3, 3], [2, 1, 4, 3, 6, 6]
    ranks_a, ranks_b = [1.5, 1.5, 3, 5, 5, 5], [2, 1, 4, 3, 5.5, 5.5]
    wanted = np.corrcoef(ranks_a, ranks_b)[0, 1]
    assert rank_correlation(ranked(*zip(a, b, strict=True)), 0, 1) == pytest.approx(wanted)


@pytest.mark.parametrize("pairs", [[], [(1, 2)], [(1, None), (2, 1)], [(1, 1), (1, 2)]])
def test_no_rank_correlation_without_two_different_latencies(pairs):
    assert rank_correlation(ranked(*pairs), 0, 1) is None
