"""Channels whose weights died keep their bias, in TFLite as in plain arithmetic."""

import numpy as np
import pytest

from mnv4_deploy.exporters.audit import check
from mnv4_deploy.exporters.bias_overflow import LARGEST_BIAS, widen_scales
from mnv4_deploy.exporters.recipes import recipe
from mnv4_deploy.exporters.to_tflite import quantize as tflite
from mnv4_deploy.exporters.to_tflite.flatbuffer import TfliteFile


def test_only_the_channel_without_room_changes_and_its_bias_survives():
    codes = np.array([[100, -50], [127, 3]], np.int8)
    scales = np.array([0.01, 1e-12], np.float32)
    bias = np.array([0.7, -3.0])
    roomy = widen_scales(codes, scales, bias, input_scale=0.05, axis=0)
    assert roomy is not None
    np.testing.assert_array_equal(roomy.weight_codes[0], codes[0])
    np.testing.assert_array_equal(roomy.weight_codes[1], 0)  # 127 x 1e-12 is nothing beside -3
    assert roomy.weight_scales[0] == scales[0]
    assert abs(int(roomy.bias_codes[1])) <= LARGEST_BIAS + 64
    real = roomy.bias_codes * (0.05 * roomy.weight_scales.astype(np.float64))
    np.testing.assert_allclose(real, bias, rtol=1e-3)


def test_weights_that_still_count_are_kept_in_wider_steps():
    codes = np.array([[127, -64]], np.int8)
    scale, input_scale = 1e-9, 0.1
    bias = np.array([4 * LARGEST_BIAS * scale * input_scale])
    roomy = widen_scales(
        codes, np.array([scale], np.float32), bias, input_scale=input_scale, axis=0
    )
    assert roomy is not None
    np.testing.assert_array_equal(roomy.weight_codes, [[32, -16]])  # a quarter, rounded
    np.testing.assert_allclose(roomy.weight_scales, 4 * scale, rtol=1e-6)


def test_layers_with_room_are_left_alone():
    codes, scales = np.ones((2, 3), np.int8), np.full(2, 0.01, np.float32)
    assert widen_scales(codes, scales, np.ones(2), input_scale=0.1, axis=0) is None


def test_the_channel_axis_of_depthwise_weights():
    codes = np.full((1, 3, 3, 2), 100, np.int8)
    roomy = widen_scales(
        codes, np.array([0.01, 1e-12], np.float32), np.ones(2), input_scale=0.1, axis=3
    )
    assert roomy is not None
    assert (roomy.weight_codes[..., 0] == 100).all() and (roomy.weight_codes[..., 1] == 0).all()


@pytest.fixture(scope="module")
def dead_channel(small, tmp_path_factory):
    """The float file with next to no weights in one channel of its first convolution."""
    file = TfliteFile(small.path)
    convolution = next(file.operators("CONV_2D"))
    weight, bias = int(convolution.inputs[1]), int(convolution.inputs[2])
    for tensor, value in ((weight, 1e-12), (bias, 0.5)):
        values = file.constant(tensor, np.float32).copy()
        values[0] = value
        buffer = file.model.buffers[file.graph.tensors[tensor].buffer]
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    path = tmp_path_factory.mktemp("dead") / "fp32.tflite"
    file.write(path)
    return path


def _constant_of(path):
    """What the int8 file makes of the dead channel's bias, in real numbers."""
    file = TfliteFile(path)
    convolution = next(file.operators("CONV_2D"))
    source, weight, bias = map(int, convolution.inputs)
    weight_scale = float(file.graph.tensors[weight].quantization.scale[0])
    bias_scale = float(file.graph.tensors[bias].quantization.scale[0])
    assert bias_scale == pytest.approx(weight_scale * file.quantization(source)[0], rel=1e-6)
    return int(file.constant(bias, np.int32)[0]) * bias_scale


def test_a_quantized_file_keeps_the_bias_of_a_dead_channel(
    dead_channel, small, tmp_path, monkeypatch
):
    path = tmp_path / "int8.tflite"
    tflite.quantize_tflite(dead_channel, path, small.images, recipe=recipe("xnnpack"))
    assert _constant_of(path) == pytest.approx(0.5, rel=1e-4)
    truth = check(path)
    assert truth.overflowing_biases == () and truth.facts.partitions == 1
    # What the library writes by itself loses it.
    monkeypatch.setattr(tflite, "widen_scales_in_tflite", lambda *_: ())
    without = tmp_path / "without.tflite"
    tflite.quantize_tflite(dead_channel, without, small.images, recipe=recipe("xnnpack"))
    assert abs(_constant_of(without)) < 0.25
    assert check(without).overflowing_biases
    # The codes are replaced, not added.
    assert abs(path.stat().st_size - without.stat().st_size) < 1024
