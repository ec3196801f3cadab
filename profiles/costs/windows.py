"""Pooling, reductions and resizing."""

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

# Four products and three additions for each output; sixteen and fifteen.
_OPS_PER_RESIZED = {"nearest": 0, "linear": 7, "cubic": 31}


def _window(op: Operator) -> int:
    kernel = op.attributes.get("kernel_shape")
    if isinstance(kernel, tuple):
        return int(math.prod(kernel))
    return math.prod(int(str(op.attributes[f"filter_{side}"])) for side in ("height", "width"))


def average_pool(graph: ModelGraph, op: Operator) -> Work:
    """Additions and one division for each output."""
    return _pool(graph, op, _window(op))


def max_pool(graph: ModelGraph, op: Operator) -> Work:
    return _pool(graph, op, _window(op) - 1)


def l2_pool(graph: ModelGraph, op: Operator) -> Work:
    """Squares, additions, one division and one root for each output."""
    return _pool(graph, op, 2 * _window(op) + 1)


def _pool(graph: ModelGraph, op: Operator, ops: int) -> Work:
    return Work(0, ops * target(graph, op).elements + fused_activation_ops(graph, op))


def reduction(*, per_input: int = 0, per_output: int = 0, input_at: int = 0) -> CostFunction:
    """Inputs combined pairwise into each output, with extra operations before and after."""

    def cost(graph: ModelGraph, op: Operator) -> Work:
        inputs, outputs = source(graph, op, input_at).elements, target(graph, op).elements
        combined = max(inputs - outputs, 0)
        return Work(0, combined + per_input * inputs + per_output * outputs)

    return cost


def resize(mode: str) -> CostFunction:
    """``mode`` where the operator does not say ("nearest", "linear", "cubic")."""

    def cost(graph: ModelGraph, op: Operator) -> Work:
        ops = _OPS_PER_RESIZED.get(str(op.attributes.get("mode", mode)), 0)
        return Work(0, ops * target(graph, op).elements)

    return cost
