"""Findings on profiles with one planted defect each: it must come first, and be named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mnv4_deploy.profiles.records.graph import OpCost
from mnv4_deploy.profiles.records.profile import Bound, Layer, Trust
from mnv4_deploy.profiles.roofline.findings import findings_of

CONV = OpCost(macs=1_000_000, weight_bytes=1000, read_bytes=1000, written_bytes=1000)


def conv(index: int, latency_us: float, **changes) -> Layer:
    base = Layer(
        index=index,
        op_type="CONV_2D",
        name=f"conv{index}",
        module=f"blocks.{index}",
        compute="int8",
        backend="xnnpack",
        partition=0,
        op_indices=(index,),
        timing_indices=(index,),
        file_op_types=("CONV_2D",),
        kernels=("Convolution",),
        output_shape=(1, 8, 8, 16),
        samples_us=(latency_us,) * 3,
        cost=CONV,
    )
    return replace(base, **changes)


def bound(layer: Layer, roof_us: float, limit: str = "compute") -> Bound:
    return Bound(
        limit=limit,
        level="L2",
        compute_us=roof_us,
        memory_us=roof_us / 2,
        overhead_us=0.5,
        roof_us=roof_us,
        percent_of_roof=100 * roof_us / layer.latency_us,
        recoverable_us=max(0.0, layer.latency_us - roof_us),
    )


def trust(layers: list[Layer], gap_us: float = 0.0) -> Trust:
    total = sum(layer.latency_us for layer in layers)
    percent = 100 * total / (total + gap_us)
    return Trust(total + gap_us, total, 0.0, total, gap_us, percent, 0.0, 10, ())


def find(pairs: list[tuple[Layer, float]], gap_us: float = 0.0, limits: dict | None = None):
    layers = [
        replace(x, bound=bound(x, roof, (limits or {}).get(x.index, "compute")))
        for x, roof in pairs
    ]
    return findings_of(layers, trust(layers, gap_us))


def test_a_healthy_network_has_nothing_to_report() -> None:
    assert find([(conv(0, 100.0), 95.0), (conv(1, 100.0), 90.0)]) == ()


def test_an_operator_outside_the_delegate_is_named_with_its_reason() -> None:
    outside = conv(
        1,
        400.0,
        op_type="BATCH_MATMUL",
        backend="builtin",
        partition=None,
        refusal="zero point not 0",
    )
    second = conv(2, 100.0, partition=1)
    finding, *_ = find([(conv(0, 100.0), 95.0), (outside, 20.0), (second, 95.0)])
    assert (finding.kind, finding.layers) == ("fragmenting op", (1,))
    assert "1 BATCH_MATMUL outside XNNPACK" in finding.title
    assert "zero point not 0" in finding.advice and "2 partitions" in finding.advice
    assert finding.recoverable_us == 380.0


def test_without_any_delegation_no_operator_fragments_it() -> None:
    alone = conv(0, 400.0, backend="builtin", partition=None)
    assert all(f.kind != "fragmenting op" for f in find([(alone, 100.0)]))


def test_one_slow_layer_is_named_rather_than_its_operator() -> None:
    layers = [(conv(i, 100.0), 95.0) for i in range(4)] + [(conv(4, 800.0), 80.0)]
    finding, *_ = find(layers)
    assert (finding.kind, finding.layers) == ("below its roof", (4,))
    assert finding.title.startswith("blocks.4 (CONV_2D) at 10 % of the roof")


def test_an_operator_that_is_slow_everywhere_is_one_finding() -> None:
    slow = [(conv(i, 100.0, op_type="DEPTHWISE_CONV_2D"), 20.0) for i in range(6)]
    finding, *rest = find(slow)
    assert finding.title.startswith("6 DEPTHWISE_CONV_2D at 20 % of the roof")
    assert finding.layers == tuple(range(6))
    assert rest == []


def test_a_reason_is_told_of_the_layers_it_is_true_of() -> None:
    """The stem sums 27 products, the 38 others 256 or 512: they are another finding."""
    outputs = 8 * 8 * 16

    def slow(index: int, latency_us: float, products: int) -> tuple[Layer, float]:
        cost = replace(CONV, macs=products * outputs)
        return conv(index, latency_us, cost=cost), latency_us / 4

    wide = [slow(i, 100.0, 256 * (1 + i % 2)) for i in range(1, 39)]
    short, rest = sorted(find([slow(0, 400.0, 27), *wide]), key=lambda f: len(f.layers))
    assert short.layers == (0,)
    assert "27 products" in short.advice
    assert rest.layers == tuple(range(1, 39))
    assert rest.title.startswith("38 CONV_2D")
    assert "products" not in rest.advice
    # Short sums of several lengths are told with both ends.
    (several,) = find([slow(i, 100.0, products) for i, products in enumerate((9, 25, 27))])
    assert "9 to 27 products" in several.advice


def test_a_float_island_counts_its_conversions() -> None:
    pairs = [
        (conv(0, 500.0), 480.0),
        (conv(1, 60.0, op_type="DEQUANTIZE", compute="int8->float32"), 55.0),
        (conv(2, 100.0, op_type="SOFTMAX", compute="float32", cost=OpCost(read_bytes=9)), 90.0),
        (conv(3, 60.0, op_type="QUANTIZE", compute="float32->int8"), 55.0),
    ]
    finding, *_ = find(pairs)
    assert finding.kind == "float island"
    assert "1 operator in float (SOFTMAX) and 2 conversions" in finding.title
    assert finding.recoverable_us == 60.0 + 60.0 + 10.0


def test_a_float_network_is_no_island() -> None:
    pairs = [(conv(i, 100.0, compute="float32"), 95.0) for i in range(3)]
    assert all(f.kind != "float island" for f in find(pairs))


def test_transposes_that_the_runtime_inserted_are_counted() -> None:
    moved = conv(
        1, 90.0, op_type="ReorderInput", backend="onnxruntime", file_op_types=(), cost=None
    )
    finding, *_ = find([(conv(0, 100.0), 95.0), (moved, 85.0)])
    assert (finding.kind, finding.recoverable_us) == ("layout changes", 90.0)
    assert "1 transpose, 1 of them inserted by the runtime" in finding.title


def test_time_between_operators_is_a_finding() -> None:
    finding, *_ = find([(conv(0, 100.0), 95.0)], gap_us=50.0)
    assert finding.kind == "around the operators"
    assert finding.recoverable_us == pytest.approx(50.0)


def test_operators_bound_by_dispatch() -> None:
    tiny = [(conv(i, 9.0, op_type="ADD", cost=OpCost(read_bytes=1)), 8.5) for i in range(1, 9)]
    finding, *_ = find(
        [(conv(0, 100.0), 95.0), *tiny], limits=dict.fromkeys(range(1, 9), "overhead")
    )
    assert finding.kind == "overhead"
    assert finding.layers == tuple(range(1, 9))
    assert finding.recoverable_us == 4.0  # eight dispatches of 0.5 us


def test_no_layer_is_counted_twice_and_three_are_enough() -> None:
    pairs = [
        (conv(0, 500.0), 100.0),
        (conv(1, 300.0, op_type="TRANSPOSE", cost=OpCost(read_bytes=9)), 10.0),
        (conv(2, 200.0, op_type="DEPTHWISE_CONV_2D"), 50.0),
        (conv(3, 100.0, op_type="ADD", cost=OpCost(read_bytes=9)), 30.0),
    ]
    found = find(pairs, gap_us=400.0)
    assert len(found) == 3
    named = [i for finding in found for i in finding.layers]
    assert len(named) == len(set(named))
    assert [f.recoverable_us for f in found] == sorted(
        (f.recoverable_us for f in found), reverse=True
    )
