"""Names, layouts and sums, each against what is known without them."""

from __future__ import annotations

import numpy as np
import pytest

from mnv4_deploy.layers.families import family_of
from mnv4_deploy.layers.join import bare_name
from mnv4_deploy.layers.layer import Quantization
from mnv4_deploy.layers.layout import find_layout
from mnv4_deploy.layers.tally import AgreementTally, ChannelTally, RangeTally

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("act1/Relu_QuantizeLinear_Output", "act1/Relu"),
        ("conv_DequantizeLinear_Output_1", "conv"),
        ("act1;2_quantized", "act1;2"),
        ("blocks.2.4.attn;3_dequant", "blocks.2.4.attn;3"),
        ("logits;int8", "logits"),
        ("conv_0_quantized", "conv_0"),
        ("blocks.0.0.conv;12", "blocks.0.0.conv;12"),
        ("quantized_conv", "quantized_conv"),
    ],
)
def test_names_lose_what_quantizers_append(name: str, bare: str) -> None:
    assert bare_name(name) == bare


def test_one_operator_has_one_family_in_every_format() -> None:
    kinds = ("CONV_2D", "DEPTHWISE_CONV_2D", "Conv", "QLinearConv", "Conv2d", "Gemm", "Linear")
    assert {family_of(kind) for kind in kinds} == {"product"}
    pools = ("MEAN", "GlobalAveragePool", "QLinearGlobalAveragePool", "AdaptiveAvgPool2d")
    assert {family_of(kind) for kind in pools} == {"mean"}
    assert family_of("HARD_SWISH") == family_of("HardSwish") == family_of("Hardswish")
    assert family_of("ADD") != family_of("MUL")


def test_maps_go_by_the_order_of_their_formats() -> None:
    """Also where a square map would fit otherwise, and where the candidate is badly damaged."""
    nchw = RNG.standard_normal((1, 4, 4, 4))
    nhwc = nchw.transpose(0, 2, 3, 1)
    noise = RNG.standard_normal(nhwc.shape)
    there = find_layout(nchw, "onnx", noise, "tflite")
    back = find_layout(nhwc, "tflite", noise, "torch")
    assert there is not None
    assert back is not None
    np.testing.assert_array_equal(there(nchw), nhwc)
    np.testing.assert_array_equal(back(nhwc), nchw)


@pytest.mark.parametrize("shape", [(1, 1, 1, 12), (12,), (1, 12, 1, 1)])
def test_axes_of_one_do_not_matter(shape: tuple[int, ...]) -> None:
    values = RNG.standard_normal((1, 12))
    layout = find_layout(values, "onnx", values.reshape(shape), "tflite")
    assert layout is not None
    np.testing.assert_array_equal(layout(values), values.reshape(shape))


@pytest.mark.parametrize("axes", [(0, 2, 1, 3), (0, 1, 3, 2), (0, 3, 1, 2)])
def test_attention_takes_the_order_that_agrees_best(axes: tuple[int, ...]) -> None:
    """Heads equal to the depth, so that shapes alone leave a choice."""
    truth = RNG.standard_normal((1, 4, 9, 4))
    candidate = truth.transpose(axes) + 0.2 * RNG.standard_normal(truth.transpose(axes).shape)
    layout = find_layout(truth, "onnx", candidate, "onnx")
    assert layout is not None
    if candidate.shape != truth.shape:
        np.testing.assert_array_equal(layout(truth), truth.transpose(axes))


def test_rows_of_a_map_join_a_matrix() -> None:
    rows = RNG.standard_normal((1, 9, 5))
    layout = find_layout(rows, "onnx", rows.reshape(1, 3, 3, 5), "tflite")
    assert layout is not None
    np.testing.assert_array_equal(layout(rows), rows.reshape(1, 3, 3, 5))


def test_tensors_of_other_shapes_do_not_join() -> None:
    shapes = [((1, 4, 6), (1, 24, 2)), ((1, 4, 6), (1, 3, 8)), ((1, 5), (1, 6))]
    for reference, candidate in shapes:
        assert find_layout(np.zeros(reference), "onnx", np.zeros(candidate), "onnx") is None


def test_sqnr_of_noise_a_tenth_as_large_is_20_db() -> None:
    tally = AgreementTally()
    for _ in range(3):
        signal = RNG.standard_normal(100)
        tally.add(signal, signal * 1.1)
    result = tally.result()
    assert result.sqnr_db == pytest.approx(20)
    assert result.cosine == pytest.approx(1)
    assert result.noise_share == pytest.approx(0.01)


def test_silence_and_numbers_that_are_none() -> None:
    equal, lost, infinite, broken = (AgreementTally() for _ in range(4))
    equal.add(np.zeros(4), np.zeros(4))
    assert (equal.result().sqnr_db, equal.result().cosine) == (200, 1)
    lost.add(np.ones(4), np.zeros(4))
    assert (lost.result().sqnr_db, lost.result().cosine) == (0, 0)
    padded = np.array([1.0, -np.inf, 2.0])
    infinite.add(padded, padded)
    assert infinite.result().sqnr_db == 200
    broken.add(np.ones(2), np.array([1.0, np.nan]))
    assert broken.result().sqnr_db == -200


def test_range_use_of_known_values() -> None:
    """Scale 1, zero point 0: the range is -128..127."""
    tally = RangeTally(Quantization(1.0, 0, "int8"))
    tally.add(np.array([0.0, 0.5, 10.25, 130.0]))
    tally.add(np.array([-np.inf, -20.0]))
    use = tally.result()
    assert (use.low, use.high, use.seen_low, use.seen_high) == (-128, 127, -20, 130)
    assert use.clipped_percent == pytest.approx(100 * 2 / 6)
    assert use.clipping_share == 1
    assert use.used_percent == pytest.approx(100 * 147 / 255)


def test_clipping_share_of_known_values() -> None:
    tally = RangeTally(Quantization(0.5, 10, "uint8"))  # -5..122.5
    tally.add(np.array([0.25, 1.1, 124.5]))
    use = tally.result()
    assert (use.low, use.high) == (-5, 122.5)
    # Half to even leaves 0.25 at 0.
    assert use.clipping_share == pytest.approx(4 / (4 + 0.25**2 + 0.1**2))


def test_offset_share() -> None:
    """A constant of each channel is all of the error, noise without a mean none."""
    constant, noise = ChannelTally(axis=1), ChannelTally(axis=1)
    for sign in (1, 1):
        constant.add_error(sign * np.array([1.0, -3.0])[None, :, None] * np.ones((1, 2, 5)))
    for sign in (1, -1):
        noise.add_error(sign * np.ones((1, 2, 5)))
    assert constant.offset_share == pytest.approx(1)
    assert noise.offset_share == pytest.approx(0)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_quantization_agrees_with_the_definition(dtype: str) -> None:
    own = Quantization(0.25, 3, dtype)
    values = np.array([-1e9, -0.125, 0.0, 0.375, 1.0, 1e9], np.float32)
    codes = own.quantize(values)
    assert codes.dtype == dtype
    info = np.iinfo(dtype)
    assert codes.tolist() == [info.min, 3, 3, 5, 7, info.max]  # halves go to the even step
    assert own.dequantize(codes)[4] == 1.0
    assert (own.low, own.high) == ((info.min - 3) * 0.25, (info.max - 3) * 0.25)
