"""Layers that go through time: LSTM, GRU, RNN and SVDF, of both formats.

Shape legend: T steps, N batch, C input values, H hidden ones, P what a projection makes of them.
Every step uses all weights once for each element of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from mnv4_deploy.profiles.costs.work import CostFunction, Work, fused_activation_ops, source
from mnv4_deploy.profiles.records.graph import ModelGraph, Operator

# Scalar operations of the gates for one hidden value: three sigmoids of four, two tanh, three
# products, one addition; two sigmoids, one tanh, three products, two additions.
LSTM_OPS, GRU_OPS, RNN_OPS = 18, 14, 1
_QUANTIZE_OPS = 7  # of each input of a step that is quantized as it comes
# Positions of matrices and of vectors that are multiplied, in TFLite; a bidirectional layer has
# those of the way back 17 further on.
_LSTM_MATRICES, _LSTM_VECTORS, _PROJECTION = range(1, 9), range(9, 12), 16
_WAY_BACK = 17
_RECURRENT_TO_OUTPUT = 8


def recurrent(ops_per_unit: int) -> CostFunction:
    """ONNX: input [T,N,C], weights [directions, gates*H, C or H]."""

    def cost(graph: ModelGraph, op: Operator) -> Work:
        steps = math.prod(source(graph, op).shape[:2])
        w, r = source(graph, op, 1), source(graph, op, 2)
        units = r.shape[0] * r.shape[2]
        return Work(steps * (w.elements + r.elements), steps * units * ops_per_unit)

    return cost


def quantized_lstm(graph: ModelGraph, op: Operator) -> Work:
    """onnxruntime's DynamicQuantizeLSTM: input [T,N,C], weights [directions, C or H, 4*H]. The
    input and the hidden values of each step are quantized."""
    steps = math.prod(source(graph, op).shape[:2])
    w, r = source(graph, op, 1), source(graph, op, 2)
    directions, hidden, _ = r.shape
    quantized = directions * (w.shape[1] + hidden) * _QUANTIZE_OPS
    other = directions * hidden * LSTM_OPS + quantized
    return Work(steps * (w.elements + r.elements), steps * other)


def lstm(graph: ModelGraph, op: Operator) -> Work:
    """Both formats call it LSTM; TFLite's takes one step, [N,C]."""
    if graph.format == "onnx":
        return recurrent(LSTM_OPS)(graph, op)
    return sequence_lstm(graph, op)


def rnn(graph: ModelGraph, op: Operator) -> Work:
    """Both formats call it RNN; TFLite's takes one step, [N,C]."""
    if graph.format == "onnx":
        return recurrent(RNN_OPS)(graph, op)
    return sequence_rnn(graph, op)


def sequence_lstm(graph: ModelGraph, op: Operator) -> Work:
    """TFLite: input [T,N,C] or [N,T,C], a matrix [H,C] or [H,P] for each gate."""
    return _tflite_lstm(graph, op, (0,))


def two_way_lstm(graph: ModelGraph, op: Operator) -> Work:
    return _tflite_lstm(graph, op, (0, _WAY_BACK))


def _tflite_lstm(graph: ModelGraph, op: Operator, ways: Iterable[int]) -> Work:
    steps = math.prod(source(graph, op).shape[:-1])
    macs = other = 0
    for way in ways:
        matrices = (*_LSTM_MATRICES, _PROJECTION)
        macs += sum(_elements(graph, op, way + at) for at in matrices)
        hidden = source(graph, op, way + _RECURRENT_TO_OUTPUT).shape[0]
        other += hidden * LSTM_OPS + sum(_elements(graph, op, way + at) for at in _LSTM_VECTORS)
    return Work(steps * macs, steps * other)


def sequence_rnn(graph: ModelGraph, op: Operator) -> Work:
    """TFLite: input [T,N,C] or [N,T,C], weights [H,C] and [H,H]."""
    steps = math.prod(source(graph, op).shape[:-1])
    w, r = source(graph, op, 1), source(graph, op, 2)
    return Work(steps * (w.elements + r.elements), steps * w.shape[0] * RNN_OPS)


def svdf(graph: ModelGraph, op: Operator) -> Work:
    """TFLite: input [N,C], a filter over the input [F,C] and one over the last M steps [F,M];
    every ``rank`` filters are added to one output."""
    batch = source(graph, op).shape[0]
    feature, time = source(graph, op, 1), source(graph, op, 2)
    filters, rank = feature.shape[0], int(str(op.attributes.get("rank", 1)))
    added = batch * (filters - filters // rank)
    macs = batch * (feature.elements + time.elements)
    return Work(macs, added + fused_activation_ops(graph, op))


def _elements(graph: ModelGraph, op: Operator, position: int) -> int:
    """Of an input that may be left out."""
    index = op.inputs[position] if position < len(op.inputs) else -1
    return graph.tensors[index].elements if index >= 0 else 0
