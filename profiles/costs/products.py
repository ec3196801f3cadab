"""Convolutions, matrix products and recurrent layers: what multiplies and accumulates.

Shape legend: N batch, H W image, C input and M output channels, g groups, h w kernel.
"""

from __future__ import annotations

import math

from mnv4_deploy.profiles.costs.work import (
    CostFunction,
    Work,
    fused_activation_ops,
    source,
    target,
)
from mnv4_deploy.profiles.records.graph import ModelGraph, Operator


def convolution(weight_at: int) -> CostFunction:
    """Weights [M, ...taps of one output value]: [M,h,w,C/g] in TFLite, [M,C/g,h,w] in ONNX."""

    def cost(graph: ModelGraph, op: Operator) -> Work:
        out = target(graph, op).elements
        taps = math.prod(source(graph, op, weight_at).shape[1:])
        # onnxruntime's FusedConv may add a fourth input to its result.
        added = out if op.kind in _CONVS_WITH_SUM and len(op.inputs) > _SUM_AT else 0
        return Work(out * taps, added + fused_activation_ops(graph, op))

    return cost


_CONVS_WITH_SUM = ("FusedConv", "NhwcFusedConv")
_SUM_AT = 3


def channels_last_taps(graph: ModelGraph, op: Operator) -> Work:
    """Weights [...taps, M]: TFLite's depthwise [1,h,w,M] and 3-D [d,h,w,C,M] convolution."""
    taps = math.prod(source(graph, op, 1).shape[:-1])
    return Work(target(graph, op).elements * taps, fused_activation_ops(graph, op))


def transposed_convolution_onnx(graph: ModelGraph, op: Operator) -> Work:
    """Every input value meets the M/g*h*w weights of its channel; weights [C, M/g, h, w]."""
    return Work(source(graph, op).elements * math.prod(source(graph, op, 1).shape[1:]))


def transposed_convolution_tflite(input_at: int) -> CostFunction:
    """Weights [M, h, w, C] at position 1."""

    def cost(graph: ModelGraph, op: Operator) -> Work:
        taps = math.prod(source(graph, op, 1).shape[:-1])
        macs = source(graph, op, input_at).elements * taps
        return Work(macs, fused_activation_ops(graph, op))

    return cost


def fully_connected(graph: ModelGraph, op: Operator) -> Work:
    """TFLite: weights [M, C]."""
    depth = source(graph, op, 1).shape[-1]
    return Work(target(graph, op).elements * depth, fused_activation_ops(graph, op))


def matrix_product(*transposed_by: str) -> CostFunction:
    """Output elements times the common depth, which is the last dimension of the first operand.

    ``transposed_by`` are the attributes that make it the last but one.
    """

    def cost(graph: ModelGraph, op: Operator) -> Work:
        shape = source(graph, op).shape
        at = -2 if any(op.attributes.get(name) for name in transposed_by) else -1
        return Work(target(graph, op).elements * shape[at], fused_activation_ops(graph, op))

    return cost


def einsum(graph: ModelGraph, op: Operator) -> Work:
    """One MAC for each combination of indices and each operand after the first.

    With one operand (a transpose or a sum) it is no product: additions only.
    """
    equation = str(op.attributes["equation"]).replace(" ", "")
    terms = equation.partition("->")[0].split(",")
    sizes: dict[str, int] = {}
    for position, term in enumerate(terms):
        shape = list(source(graph, op, position).shape)
        head, dots, tail = term.partition("...")
        if dots:
            middle = shape[len(head) : len(shape) - len(tail)]
            shape[len(head) : len(shape) - len(tail)] = [math.prod(middle)]
        labels = [*head, *(["..."] if dots else []), *tail]
        for label, size in zip(labels, shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
    if len(terms) == 1:
        return Work(other_ops=source(graph, op).elements - target(graph, op).elements)
    return Work(math.prod(sizes.values()) * (len(terms) - 1))
