"""Which XNNPACK kernels a TFLite operator can appear as, and when it can disappear."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from mnv4_deploy.profiles.records.graph import ModelGraph, Operator, Tensor
from mnv4_deploy.profiles.xnnpack import rules

CONVOLUTIONS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D"})
CLAMPS = frozenset({"RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1"})
RESHAPES = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS"})
# XNNPACK fuses a clamp into these, and no longer into elementwise operators.
_CLAMPED = CONVOLUTIONS | {"FULLY_CONNECTED", "TRANSPOSE_CONV", "MAX_POOL_2D", "AVERAGE_POOL_2D"}
# XNNPACK unpacks weights once, when it loads a model.
UNPACKED = frozenset({"DEQUANTIZE", "DENSIFY"})
# Functions of one operand and conversions in a row, from 8 bits to 8 bits, become one table.
_CONVERSIONS = frozenset({"QUANTIZE", "DEQUANTIZE"})

KERNELS: Mapping[str, rules.Kernels] = {kind: rule.kernels for kind, rule in rules.RULES.items()}
# Names of kernels that move or convert data: delegate and XNNPACK insert those on their own.
HELPERS = ("Convert", "Copy", "Transpose", "Static Reshape", "Constant Pad", "Pack", "Slice")

_BRACKETED = re.compile(r"\s*\(([^)]*)\)")
_STORAGE_BYTES = {"X8": 1, "X16": 2, "X32": 4, "X64": 8}
_INTEGER = re.compile(r"Q[SUCDBP]+\d|[SU]8")


def is_kernel(tag: str, names: tuple[str, ...]) -> bool:
    """Whether the operator name in ``tag``, without what is in brackets, is one of ``names``."""
    return _name(tag) in names


@cache
def _name(tag: str) -> str:
    return _BRACKETED.split(tag, maxsplit=1)[0]


def wrong_type(tag: str, operand: Tensor) -> bool:
    """Whether ``tag`` names a type that ``operand`` does not have; one without types is right."""
    bracketed = _BRACKETED.search(tag)
    types = [part.strip() for part in bracketed[1].split(",")] if bracketed else []
    widths = [_STORAGE_BYTES[part] for part in types if part in _STORAGE_BYTES]
    if widths:
        return operand.size_bytes != widths[0] * operand.elements
    if any(_INTEGER.match(part) for part in types):
        # Dynamic quantization (QD8, QP8) reads float and multiplies integers.
        dynamic = any(part.startswith(("QD", "QP")) for part in types)
        return operand.dtype.startswith("float") != dynamic and "F32" not in types
    if "F32" in types or "F16" in types:
        return not operand.dtype.startswith("float")
    return False


def readers(graph: ModelGraph) -> dict[int, list[Operator]]:
    """Tensor index -> the operators that read it."""
    found: dict[int, list[Operator]] = {}
    for op in graph.ops:
        for tensor in dict.fromkeys(op.inputs):
            found.setdefault(tensor, []).append(op)
    return found


def fused_into(graph: ModelGraph) -> dict[int, int]:
    """Operator index -> the operator that XNNPACK can fuse it with, where it can.

    A padding whose only reader is a convolution; a clamp that is the only reader of what a
    convolution, matrix product or pooling writes (``xnn_subgraph_fusion``); what becomes a table
    with the first function in it.
    """
    following = _only_readers(graph)
    producer = {t: op for op in graph.ops for t in op.outputs}
    found: dict[int, int] = {}
    for op in graph.ops:
        after = following.get(op.index)
        source = producer.get(op.inputs[0]) if op.inputs else None
        if op.kind in ("PAD", "PADV2") and after is not None and after.kind in CONVOLUTIONS:
            found[op.index] = after.index
        elif (
            op.kind in CLAMPS
            and source is not None
            and source.kind in _CLAMPED
            and following.get(source.index) is op
        ):
            found[op.index] = source.index
        elif op.index not in found:
            chain = _table(graph, op, following)
            first = next((o.index for o in chain if _is_function(o.kind)), None)
            if first is not None:
                found |= {o.index: first for o in chain if o.index != first}
    return found


def _only_readers(graph: ModelGraph) -> dict[int, Operator]:
    """Operator index -> the only operator that reads its only result."""
    by_tensor, kept = readers(graph), set(graph.outputs)
    found = {}
    for op in graph.ops:
        reading = by_tensor.get(op.outputs[0], []) if len(op.outputs) == 1 else []
        if len(reading) == 1 and op.outputs[0] not in kept:
            found[op.index] = reading[0]
    return found


def _table(graph: ModelGraph, op: Operator, following: Mapping[int, Operator]) -> list[Operator]:
    """The operators from ``op`` on that XNNPACK can make one table of; [] where it is none."""
    chain: list[Operator] = []
    current: Operator | None = op
    while current is not None and (_is_function(current.kind) or current.kind in _CONVERSIONS):
        chain.append(current)
        current = following.get(current.index)
    if not chain or not all(_in_8_bits(t) for t in graph.sources(op)[:1]):
        return []
    while chain and not all(_in_8_bits(t) for t in graph.targets(chain[-1])):
        chain.pop()
    return chain


def _is_function(kind: str) -> bool:
    return kind in rules.RULES and rules.RULES[kind].lookup


def _in_8_bits(tensor: Tensor) -> bool:
    return tensor.dtype in ("int8", "uint8")
