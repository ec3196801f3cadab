"""Rules on figures made by hand: each cause where it holds, none where it does not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from mnv4_deploy.drift.causes.calibration import find_calibration_fault
from mnv4_deploy.drift.causes.diagnose import diagnose
from mnv4_deploy.drift.causes.hypothesis import CREST, rounding
from mnv4_deploy.layers.records import (
    Agreement,
    Cause,
    LayerDrift,
    LayerEvidence,
    LayersDrift,
    OutputEffect,
    OutputEffects,
    RangeUse,
)

INT32_MAX = 2**31 - 1


def use(low: float, high: float, seen: tuple[float, float], **facts: float) -> RangeUse:
    """An int8 range; ``facts`` replace what follows from the numbers."""
    scale = (high - low) / 255
    inside = min(seen[1], high) - max(seen[0], low)
    made = RangeUse(
        scale=scale,
        zero_point=round(-128 - low / scale),
        low=low,
        high=high,
        seen_low=seen[0],
        seen_high=seen[1],
        used_percent=100 * inside / (high - low),
        clipped_percent=0.0,
        clipping_share=0.0,
    )
    return replace(made, **facts)


def layer(
    index: int,
    alone: float | None = 40.0,
    *,
    through: float | None = None,
    output: RangeUse | None = None,
    kind: str = "CONV_2D",
    inputs: Sequence[int] | None = None,
    **evidence: object,
) -> LayerDrift:
    """A layer at ``alone`` dB on its own and ``through`` dB in the network."""
    reached = through if through is not None else alone if alone is not None else 40.0
    evidence.setdefault("channel_peaks", np.full(16, 6.0))
    return LayerDrift(
        index=index,
        module=f"block{index}.conv",
        kind=kind,
        compute="int8",
        tensor=f"t{index}",
        reference_tensor=f"r{index}",
        shape=(1, 8, 8, 16),
        accumulated=Agreement(reached, 0.9),
        isolated=None if alone is None else Agreement(alone, 0.9),
        output=use(0, 6, (0, 6)) if output is None else output,
        evidence=LayerEvidence(**evidence),  # type: ignore[arg-type]
        inputs=tuple(inputs) if inputs is not None else (index - 1,) if index else (),
    )


def found(*layers: LayerDrift, input_fault: Cause | None = None) -> LayersDrift:
    return diagnose(LayersDrift(8, layers, ()), input_fault)


def first(*layers: LayerDrift) -> tuple[str, str]:
    top = found(*layers).ranking[0]
    return top.module, top.cause.kind


def test_rounding_is_the_uniform_error_over_the_power() -> None:
    """Against rounding itself: a Gaussian whose root mean square is its peak over CREST."""
    values = np.random.default_rng(0).normal(0, 1.0, 200_000)
    step = 0.2
    noise = np.mean(np.square(np.round(values / step) * step - values))
    assert rounding(step, CREST) == pytest.approx(noise / np.mean(values**2), rel=0.02)
    assert rounding(1e9, 1.0) == 1.0
    assert rounding(1.0, 0.0) == rounding(1.0, math.inf) == 0.0


def test_sound_layers_have_no_cause() -> None:
    result = found(*(layer(i, 38.0) for i in range(6)))
    assert result.ranking == ()
    assert all(one.cause is None for one in result.layers)


def test_outlier_channel_with_its_figures() -> None:
    peaks = np.full(32, 2.0)
    peaks[7] = 200.0
    expand = layer(1, 21.0, output=use(0, 200, (0, 200)), channel_peaks=peaks)
    # What it costs shows where the small channels are read.
    result = found(layer(0), expand, layer(2, 9.0), layer(3))
    assert [(d.module, d.cause.kind) for d in result.ranking] == [
        ("block1.conv", "outlier channel")
    ]
    # 2 / (200 / 255) = 2.55 levels
    sentence = result.ranking[0].cause.sentence
    assert "1 of 32 channels (7)" in sentence
    assert "2.5 of 256 levels" in sentence or "2.6 of 256 levels" in sentence
    reader = result.layers[2].cause
    assert reader is not None and reader.kind == "accumulated noise"
    assert "block1.conv" in reader.sentence


def test_many_large_channels_and_probabilities_have_no_outlier() -> None:
    peaks = np.full(32, 2.0)
    peaks[:4] = 200.0
    wide = use(0, 200, (0, 200))
    assert first(layer(0), layer(1, 21.0, output=wide, channel_peaks=peaks), layer(2, 9.0)) == (
        "block1.conv",
        "outlier channel",
    )
    peaks[:5] = 200.0
    kinds = {
        d.cause.kind
        for d in found(layer(0), layer(1, 21.0, output=wide, channel_peaks=peaks)).ranking
    }
    assert "outlier channel" not in kinds
    # A softmax' range is 0..1: what is rounded away there is said of its steps.
    likely = np.full(1000, 0.001)
    likely[3] = 0.9
    rounded = use(0, 1, (0, 0.9), rounded_db=18.0)
    softmax = layer(1, 18.0, output=rounded, kind="SOFTMAX", channel_peaks=likely)
    assert first(layer(0), softmax) == ("block1.conv", "8-bit probabilities")


def test_an_outlier_whose_readers_do_not_mind_is_none() -> None:
    """Before a residual addition small channels may be lost: the reader's figure decides."""
    peaks = np.full(32, 2.0)
    peaks[7] = 200.0
    expand = layer(1, 45.0, output=use(0, 200, (0, 200)), channel_peaks=peaks)
    assert found(layer(0), expand, layer(2, 42.0)).ranking == ()


def test_clipped_activation_is_blamed_on_the_layer_with_the_range() -> None:
    cut = use(0, 1.5, (0, 6), clipped_percent=8.8, clipping_share=0.99999)
    wanted = ("block1.conv", "clipped activation")
    assert first(layer(0), layer(1, 9.5, output=cut), layer(2, 9.0), layer(3)) == wanted
    # A Pad or pooling behind it has the same range and is not to blame.
    pad = layer(2, 9.4, output=cut, kind="PAD")
    ranking = found(layer(0), layer(1, 9.5, output=cut), pad, layer(3, 9.0)).ranking
    assert [(d.module, d.cause.kind) for d in ranking] == [wanted]


def test_clipping_that_costs_less_than_rounding_is_none() -> None:
    mild = use(0, 5.9, (0, 6), clipped_percent=0.01, clipping_share=0.3)
    assert found(layer(0), layer(1, 35.0, output=mild)).ranking == ()


def test_unused_range() -> None:
    wide = use(-96, 96, (-6, 6))
    result = found(layer(0), layer(1, 15.0, output=wide), layer(2, 14.0))
    assert [(d.module, d.cause.kind) for d in result.ranking] == [("block1.conv", "unused range")]
    assert "6.2 %" in result.ranking[0].cause.sentence  # 12 of 192
    assert "15.9 of 256 levels" in result.ranking[0].cause.sentence  # 12 / (192 / 255)


@pytest.mark.parametrize("constant", [-np.inf, -3.4028e38, -1e9, -65504.0, -60.0])
def test_padding_constant_takes_the_range(constant: float) -> None:
    low = max(constant, -3.4028e38)
    ruined = use(low, 0.0, (low, 6.0))
    after = use(low, 0.0, (0.0, 6.0), clipped_percent=60.0, clipping_share=1.0, used_percent=0.0)
    layers = (
        layer(0),
        # The convolution before shares the range in some files, the pooling behind in all.
        layer(1, 0.0, output=after),
        layer(2, 80.0, output=ruined, kind="PADV2", padding=constant),
        layer(3, 0.0, output=after, kind="MAX_POOL_2D"),
        layer(4, 0.0),
    )
    ranking = found(*layers).ranking
    assert [(d.module, d.cause.kind) for d in ranking] == [("block2.conv", "padding constant")]


@pytest.mark.parametrize("constant", [None, 0.0, -0.5])
def test_ordinary_padding_is_none(constant: float | None) -> None:
    assert found(layer(0), layer(1, kind="Pad", padding=constant)).ranking == ()


def test_bias_overflow() -> None:
    full = layer(1, 8.0, bias_codes_max=INT32_MAX, bias_error_share=0.97)
    assert first(layer(0), full) == ("block1.conv", "bias overflow")
    assert "2147483647" in found(layer(0), full).ranking[0].cause.sentence
    nearly = layer(1, 8.0, bias_codes_max=2**30, bias_error_share=0.9)
    assert first(layer(0), nearly) == ("block1.conv", "bias overflow")
    # A saturated bias of a layer that is right all the same does no harm.
    assert found(layer(0), replace(full, isolated=Agreement(45.0, 1.0))).ranking == ()


def test_tiny_scale_of_a_dead_channel() -> None:
    scales = (*[0.01] * 15, 1e-12)
    dead = layer(1, 8.0, weight_scales=scales, bias_codes_max=70_000, bias_error_share=0.9)
    assert first(layer(0), dead) == ("block1.conv", "tiny scale")
    # With the bias at the end of int32 that is the more specific cause.
    full = replace(dead, evidence=replace(dead.evidence, bias_codes_max=INT32_MAX))
    assert first(layer(0), full) == ("block1.conv", "bias overflow")


def test_depthwise_spread_needs_one_scale() -> None:
    peaks = 100 ** np.linspace(0, 1, 16)
    one = layer(1, 25.0, depthwise=True, weight_peaks=peaks, weight_scales=(100 / 127,))
    assert first(layer(0), one) == ("block1.conv", "depthwise weight spread")
    each = replace(one.evidence, weight_scales=tuple(peaks / 127))
    assert found(layer(0), replace(one, evidence=each)).ranking == ()
    # The same written once a channel is still one scale.
    repeated = replace(one.evidence, weight_scales=(100 / 127,) * 16)
    assert first(layer(0), replace(one, evidence=repeated))[1] == "depthwise weight spread"


@pytest.mark.parametrize(("sqnr", "kind"), [(20.0, "coarse weights"), (37.0, None)])
def test_coarse_weights(sqnr: float, kind: str | None) -> None:
    ranking = found(layer(0), layer(1, 20.0, weight_sqnr_db=sqnr, weight_scales=(0.1,))).ranking
    assert [d.cause.kind for d in ranking] == ([kind] if kind else [])


def test_other_weights_are_not_called_rounded() -> None:
    result = found(layer(0), layer(1, 0.0, weight_sqnr_db=-1.7, weight_scales=(0.1,)))
    assert "other weights" in result.ranking[0].cause.sentence


@pytest.mark.parametrize("kind", ["Softmax", "SOFTMAX", "LOGISTIC", "Sigmoid"])
def test_softmax_and_sigmoid(kind: str) -> None:
    coarse = layer(1, 20.0, kind=kind, output=use(0, 255 / 8, (0, 1), used_percent=50.0))
    assert first(layer(0), coarse) == ("block1.conv", "softmax or sigmoid range")
    fine = layer(1, 20.0, kind=kind, output=use(0, 255 / 256, (0, 1)))
    assert found(layer(0), fine).ranking == ()
    # Logits of +-300 have steps of 600 / 255 = 2.4.
    wide = layer(0, 40.0, output=use(-300, 300, (-300, 300)), channel_peaks=np.full(16, 300.0))
    result = found(wide, fine)
    assert [d.module for d in result.ranking] == ["block1.conv"]
    assert "2.4" in result.ranking[0].cause.sentence


def test_inherited_noise_has_a_cause_but_no_rank() -> None:
    cut = use(0, 1.5, (0, 6), clipped_percent=8.8, clipping_share=0.99999)
    late = layer(5, 38.0, through=8.0)
    result = found(layer(0), layer(1, 9.5, output=cut), *(layer(i) for i in (2, 3, 4)), late)
    assert [d.layer for d in result.ranking] == [1]
    cause = result.layers[5].cause
    assert cause is not None and cause.kind == "accumulated noise" and "38.0 dB" in cause.sentence


def test_ranking_is_by_what_a_layer_does_itself() -> None:
    mild = layer(1, 24.0, weight_sqnr_db=24.0, weight_scales=(0.1,))
    worse = layer(3, 12.0, weight_sqnr_db=12.0, weight_scales=(0.1,))
    layers = (layer(0), mild, layer(2), worse, layer(4, 38.0, through=11.0))
    assert [d.layer for d in found(*layers).ranking] == [3, 1]


def test_positions_are_not_operator_indices() -> None:
    """``LayerDrift.index`` counts operators of the file, ``Diagnosis.layer`` layers."""
    bad = layer(40, 12.0, inputs=(7,), weight_sqnr_db=12.0, weight_scales=(0.1,))
    result = found(layer(7, inputs=()), bad)
    assert [d.layer for d in result.ranking] == [1]


def test_blame_follows_the_wires_and_not_the_order() -> None:
    cut = use(0, 1.5, (0, 6), clipped_percent=8.8, clipping_share=0.99999)
    layers = (
        layer(0),
        layer(1, 9.5, output=cut),
        layer(2, 38.0, inputs=(0,)),
        layer(3, 8.0, inputs=(2, 1), kind="ADD"),
    )
    causes = [one.cause for one in found(*layers).layers]
    assert causes[3] is not None and "block1.conv" in causes[3].sentence
    assert causes[2] is None


def test_without_wires_the_last_layer_is_taken() -> None:
    cut = use(0, 1.5, (0, 6), clipped_percent=8.8, clipping_share=0.99999)
    layers = [layer(0), layer(1, 9.5, output=cut), layer(2, 9.0)]
    bare = [replace(one, inputs=()) for one in layers]
    assert [d.layer for d in found(*bare).ranking] == [1]


def clipping_network(bad: int, total: int = 12) -> list[LayerDrift]:
    def output(index: int) -> RangeUse:
        if index < bad:
            return use(0, 2 + index / 100, (0, 6), clipped_percent=4.0, clipping_share=0.99999)
        return use(0, 6 + index / 100, (0, 6))

    return [layer(i, 12.0 if i < bad else 38.0, output=output(i)) for i in range(total)]


def test_calibration_needs_most_layers() -> None:
    assert find_calibration_fault(clipping_network(1)) is None
    assert find_calibration_fault(clipping_network(5)) is None
    cause = find_calibration_fault(clipping_network(8))
    assert cause is not None and "8 of 12 layers clip" in cause.sentence
    wide = [layer(i, 15.0, output=use(-90 - i, 90, (-6, 6))) for i in range(8)]
    cause = find_calibration_fault(wide)
    assert cause is not None and "8 of 8 layers hardly use" in cause.sentence


def test_layers_of_one_range_count_once() -> None:
    """Pooling, padding and reshaping behind one clipped layer are one fault, not a pattern."""
    cut = use(0, 1.5, (0, 6), clipped_percent=8.8, clipping_share=0.99999)
    moved = [layer(i, 9.0, output=cut, kind="PAD") for i in range(2, 9)]
    layers = [layer(0), layer(1, 9.5, output=cut), *moved, *(layer(i) for i in (9, 10, 11))]
    assert find_calibration_fault(layers) is None


def test_whole_model_diagnoses_come_first() -> None:
    swapped = Cause("channel order", "Fed otherwise it agrees.", "Swap.")
    result = found(*clipping_network(8), input_fault=swapped)
    assert [d.module for d in result.ranking[:2]] == ["input", "all layers"]
    assert [d.layer for d in result.ranking[:2]] == [None, None]
    assert all(d.layer is not None for d in result.ranking[2:])


def test_float_layers_and_layers_that_could_not_run_alone() -> None:
    unknown = layer(1, None, through=5.0)
    in_float = replace(layer(2, 60.0), output=None, evidence=LayerEvidence())
    result = found(layer(0), unknown, in_float)
    assert result.ranking == ()
    cause = result.layers[1].cause
    assert cause is not None and cause.kind == "accumulated noise"
    assert found().ranking == ()


@pytest.mark.parametrize(
    ("weights", "rounding", "inputs", "kind"),
    [
        (0.7, 0.2, [0], "rounded weights"),
        (0.1, 0.8, [0], "rounded activations"),
        (0.1, 0.1, [0], "kernel arithmetic"),
        (0.1, 0.1, [], "rounded activations"),
    ],
)
def test_small_noise_is_what_most_of_it_is(
    weights: float, rounding: float, inputs: list[int], kind: str
) -> None:
    """Both networks' layers read the same, but for the first one's rounded input."""
    effect = OutputEffect(1, 2.0, 2.0, weights, rounding)
    effects = OutputEffects(8, 15.0, 0.9, (effect,))
    layers = (layer(0, 38.0), layer(1, 38.0, inputs=inputs))
    (only,) = diagnose(LayersDrift(8, layers, (), effects=effects), None).ranking
    assert only.cause.kind == kind
