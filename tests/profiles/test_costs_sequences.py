"""Costs of recurrent layers, samplers and what chooses boxes, each counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tests.profiles.test_costs import single

# 2 steps, batch 3, 4 inputs, 5 hidden values.
_STEPS = 6
_INPUT_GATES, _HIDDEN_GATES = [((5, 4), "w")] * 4, [((5, 5), "w")] * 4


def test_tflite_lstm_of_a_sequence() -> None:
    """Four gates from the input and four from the hidden values: 4 * (20 + 25) MACs a step."""
    inputs = [((2, 3, 4), "x"), *_INPUT_GATES, *_HIDDEN_GATES]
    cost = single("UNIDIRECTIONAL_SEQUENCE_LSTM", inputs, (2, 3, 5), file_format="tflite")
    assert (cost.macs, cost.other_ops) == (_STEPS * 180, _STEPS * 5 * 18)
    assert cost.weight_bytes == 4 * 180
    step = single(
        "LSTM", [((3, 4), "x"), *_INPUT_GATES, *_HIDDEN_GATES], (3, 5), file_format="tflite"
    )
    assert step.macs == 3 * 180


def test_tflite_lstm_with_a_projection() -> None:
    """Hidden values of 2, projected from 5: gates read 2, and 10 MACs more."""
    hidden = [((5, 2), "w")] * 4
    rest = [((5,), "w")] * 7  # peepholes, then biases
    inputs = [((2, 3, 4), "x"), *_INPUT_GATES, *hidden, *rest, ((2, 5), "w")]
    cost = single("UNIDIRECTIONAL_SEQUENCE_LSTM", inputs, (2, 3, 2), file_format="tflite")
    assert cost.macs == _STEPS * (4 * 20 + 4 * 10 + 10)
    assert cost.other_ops == _STEPS * (5 * 18 + 3 * 5)


def test_onnx_lstm() -> None:
    """7 steps, batch 2, 3 in, 4 hidden, both directions: 14 * (2*16*3 + 2*16*4)."""
    inputs = [((7, 2, 3), "x"), ((2, 16, 3), "w"), ((2, 16, 4), "w")]
    cost = single("LSTM", inputs, (7, 2, 2, 4), file_format="onnx")
    assert (cost.macs, cost.other_ops) == (14 * 224, 14 * 8 * 18)


def test_quantized_lstm() -> None:
    """Weights [directions, in, 4 * hidden]; scales and zero points are no weights."""
    scales = [((2, 20), "w"), ((2, 20), "w", "uint8")] * 2
    inputs = [
        *(((2, 3, 4), "x"), ((2, 4, 20), "w", "uint8"), ((2, 5, 20), "w", "uint8")),
        *(((2, 40), "w"), ((3,), "x", "int32"), ((2, 3, 5), "x"), ((2, 3, 5), "x")),
        *(((2, 15), "w"), *scales),
    ]
    cost = single("DynamicQuantizeLSTM", inputs, (2, 2, 3, 5))
    assert cost.macs == _STEPS * 2 * 20 * (4 + 5)
    assert cost.weight_bytes == 2 * 20 * 9 + 4 * 2 * 40 + 4 * 2 * 15


def test_svdf() -> None:
    """6 filters of rank 2 over 4 inputs and 7 steps: 6 * 4 + 6 * 7 MACs, 3 sums of two."""
    inputs = [((3, 4), "x"), ((6, 4), "w"), ((6, 7), "w"), ((3,), "w"), ((3, 42), "x")]
    cost = single("SVDF", inputs, (3, 3), rank=2, file_format="tflite")
    assert (cost.macs, cost.other_ops) == (3 * 66, 3 * 3)


@pytest.mark.parametrize(("mode", "taps"), [("nearest", 0), ("linear", 7), ("bilinear", 7)])
def test_grid_sample(mode: str, taps: int) -> None:
    """Two coordinates a point, which all channels share."""
    inputs = [((1, 16, 9, 9), "x"), ((1, 5, 6, 2), "x")]
    cost = single("GridSample", inputs, (1, 16, 5, 6), mode=mode)
    assert cost.other_ops == taps * 16 * 30 + 4 * 60
    assert cost.read_bytes == 4 * (16 * 81 + 60)


def test_what_chooses_boxes_costs_a_least() -> None:
    """200 scores of 2 classes, 3 boxes chosen; limits are no data."""
    inputs = [((1, 100, 4), "x"), ((1, 2, 100), "x"), *[((), "w")] * 3]
    cost = single("NonMaxSuppression", inputs, (3, 3), "int64")
    assert cost.other_ops == 200 + 3 * 11
    assert cost.weight_bytes == 0
    boxes = [((1, 100, 4), "x"), ((1, 100, 21), "x"), ((100, 4), "w")]
    cost = single("TFLite_Detection_PostProcess", boxes, (1, 10, 4), file_format="tflite")
    assert cost.other_ops == 100 * 20 + 2100 + 10 * 11


def test_fourier_transform() -> None:
    """8 real rows of 16: 2.5 * 128 * 7 operations, for each of 3."""
    cost = single(
        "RFFT2D",
        [((3, 8, 16), "x"), ((2,), "w", "int32")],
        (3, 8, 9),
        "complex64",
        file_format="tflite",
    )
    assert cost.other_ops == 3 * 2240
    assert cost.written_bytes == 3 * 8 * 9 * np.dtype(np.complex64).itemsize
