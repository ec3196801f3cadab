"""The record that cost functions return, and what they share.

Conventions: a product followed by an addition to a running sum is one MAC. Taps that fall on
padding count, as in the papers. The bias starts the sum and costs nothing, and so does the
rescaling inside an integer operator. Any other addition, product, comparison, rounding or
elementary function (exp, tanh, square root) is one of ``other_ops``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mnv4_deploy.profiles.records.graph import ModelGraph, Operator, Tensor


@dataclass(frozen=True)
class Work:
    """Arithmetic of one operator, in scalar operations."""

    macs: int = 0
    other_ops: int = 0


# Operators that compute and move nothing themselves: they let others run, which have costs.
HOLDERS = frozenset({"If", "Loop", "Scan"})

CostFunction = Callable[[ModelGraph, Operator], Work]

# Scalar operations of an activation fused into another operator, by TFLite's and ONNX's names.
_FUSED_ACTIVATIONS = {
    "RELU": 1,
    "RELU_N1_TO_1": 2,
    "RELU6": 2,
    "TANH": 1,
    "SIGN_BIT": 1,
    "Relu": 1,
    "Clip": 2,
    "Tanh": 1,
    "LeakyRelu": 2,
    "Sigmoid": 4,
    "HardSigmoid": 4,
    "HardSwish": 5,
}


def source(graph: ModelGraph, op: Operator, position: int = 0) -> Tensor:
    """The input at ``position``; IndexError where it was left out."""
    index = op.inputs[position]
    if index < 0:
        raise IndexError(position)
    return graph.tensors[index]


def target(graph: ModelGraph, op: Operator) -> Tensor:
    """The first output that is there."""
    return graph.targets(op)[0]


def fused_activation_ops(graph: ModelGraph, op: Operator) -> int:
    """Scalar operations of the activation that ``op`` applies to its own result, if any."""
    name = op.attributes.get("fused_activation_function") or op.attributes.get("activation", "")
    return _FUSED_ACTIVATIONS.get(str(name), 0) * target(graph, op).elements


def nothing(_graph: ModelGraph, _op: Operator) -> Work:
    """Of operators that only move data, or not even that."""
    return Work()


def kinds(text: str) -> tuple[str, ...]:
    """The kinds of operators in ``text``."""
    return tuple(text.split())
