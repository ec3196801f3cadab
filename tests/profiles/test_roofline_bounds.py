"""Bounds against hand-computed times, and properties no roofline may break."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mnv4_deploy.profiles.records.graph import OpCost
from mnv4_deploy.profiles.records.machine import Ceilings, MemoryLevel
from mnv4_deploy.profiles.records.profile import Layer
from mnv4_deploy.profiles.roofline.bounds import bound_of, transfer_us, with_bounds

L1, L2, DRAM = (
    MemoryLevel("L1", 1000, 100e9),
    MemoryLevel("L2", 10_000, 50e9),
    MemoryLevel("DRAM", None, 10e9),
)
CEILINGS = Ceilings(
    threads=1,
    peak_macs_per_s={"xnnpack": {"float32": 1e9, "int8": 4e9}, "onnxruntime": {"float32": 2e9}},
    memory=(L1, L2, DRAM),
    op_overhead_us={"xnnpack": 0.5, "onnxruntime": 3.0},
    spin_us=100.0,
)


def layer(
    cost: OpCost | None,
    latency_us: float,
    *,
    compute: str = "float32",
    backend: str = "xnnpack",
    kernels: tuple[str, ...] = ("kernel",),
    index: int = 0,
) -> Layer:
    return Layer(
        index=index,
        op_type="CONV_2D",
        name="n",
        module="m",
        compute=compute,
        backend=backend,
        partition=0,
        op_indices=(0,),
        timing_indices=(0,),
        file_op_types=("CONV_2D",),
        kernels=kernels,
        output_shape=(1,),
        samples_us=(latency_us,) * 3,
        cost=cost,
    )


def test_bytes_that_fit_the_first_level_come_from_it() -> None:
    assert transfer_us(500, 500, CEILINGS.memory) == pytest.approx((0.005, 0.0, 0.0))


def test_a_footprint_beyond_every_cache_is_served_by_each_in_proportion() -> None:
    """Of 100,000 bytes going round L1 can hold 1 %, L2 10 %: 1 %, 9 % and 90 % of any part."""
    times = transfer_us(1000, 100_000, CEILINGS.memory)
    assert times == pytest.approx((10 / 100e3, 90 / 50e3, 900 / 10e3))


def test_a_machine_without_known_memory_moves_nothing() -> None:
    assert transfer_us(1000, 1000, ()) == ()


def test_compute_bound_layer() -> None:
    bound = bound_of(
        layer(OpCost(macs=20_000, read_bytes=100), 40.0), CEILINGS, model_weight_bytes=0
    )
    assert (bound.limit, bound.compute_us, bound.roof_us) == ("compute", 20.0, 20.0)
    assert bound.percent_of_roof == pytest.approx(50.0)
    assert bound.recoverable_us == pytest.approx(20.0)


def test_memory_bound_layer_names_the_level_that_costs_most() -> None:
    cost = OpCost(macs=1000, weight_bytes=500_000)
    bound = bound_of(layer(cost, 100.0), CEILINGS, model_weight_bytes=1_000_000)
    assert (bound.limit, bound.level) == ("memory", "DRAM")
    # 0.1 % from L1, 0.9 % from L2, 99 % from DRAM.
    assert bound.memory_us == pytest.approx(500 / 100e3 + 4500 / 50e3 + 495_000 / 10e3)


def test_operators_with_almost_nothing_to_do_are_bound_by_overhead() -> None:
    bound = bound_of(
        layer(OpCost(read_bytes=8), 7.0, kernels=("a", "b")), CEILINGS, model_weight_bytes=0
    )
    assert bound.limit == "overhead"
    assert bound.overhead_us == 1.0  # two kernels
    assert bound.recoverable_us == pytest.approx(6.0)


def test_the_peak_is_that_of_the_runtime_and_the_type() -> None:
    cost = OpCost(macs=40_000)
    int8 = bound_of(layer(cost, 50.0, compute="int8"), CEILINGS, model_weight_bytes=0)
    ort = bound_of(layer(cost, 50.0, backend="onnxruntime"), CEILINGS, model_weight_bytes=0)
    builtin = bound_of(layer(cost, 50.0, backend="builtin"), CEILINGS, model_weight_bytes=0)
    assert (int8.compute_us, ort.compute_us, builtin.compute_us) == (10.0, 20.0, 40.0)


@pytest.mark.parametrize(("independent", "peak"), [(1.09e9, 1.09e9), (1.11e9, 1e9), (0.9e9, 1e9)])
def test_two_measurements_of_one_limit_give_the_higher(independent: float, peak: float) -> None:
    peaks = {**CEILINGS.peak_macs_per_s, "independent": {"float32": independent}}
    bound = bound_of(
        layer(OpCost(macs=10_000), 50.0),
        replace(CEILINGS, peak_macs_per_s=peaks),
        model_weight_bytes=0,
    )
    assert bound.compute_us == pytest.approx(1e10 / peak)


@pytest.mark.parametrize(
    "unknown",
    [
        layer(None, 50.0),
        layer(OpCost(macs=10), 50.0, compute="float16"),
        layer(OpCost(macs=10), 50.0, backend="runtime"),
        layer(OpCost(macs=10), 0.0, kernels=()),
    ],
    ids=["no cost", "no peak for the type", "runtime work", "dropped operator"],
)
def test_what_is_unknown_is_not_guessed(unknown: Layer) -> None:
    bound = bound_of(unknown, CEILINGS, model_weight_bytes=0)
    assert (bound.limit, bound.roof_us, bound.percent_of_roof) == ("unknown", None, None)


def test_a_share_of_the_roof_below_the_clock_resolution_is_not_given() -> None:
    bound = bound_of(layer(OpCost(macs=1000), 1.0), CEILINGS, model_weight_bytes=0)
    assert bound.roof_us == 1.0
    assert bound.percent_of_roof is None


def test_weights_share_the_caches_with_the_whole_models_weights() -> None:
    """The same layer is slower in a model whose weights do not fit."""
    small = layer(OpCost(macs=1, weight_bytes=1000), 50.0)
    large = layer(OpCost(macs=1, weight_bytes=999_000), 500.0, index=1)
    (by_itself,) = with_bounds([small], CEILINGS)
    both = with_bounds([small, large], CEILINGS)
    alone, among = by_itself.bound, both[0].bound
    assert alone is not None and among is not None
    assert alone.memory_us == pytest.approx(0.01)  # all of it in L1
    assert among.memory_us == pytest.approx(1 / 100e3 + 9 / 50e3 + 990 / 10e3)
    # Nothing but the bound is new.
    assert [replace(each, bound=None) for each in both] == [small, large]
