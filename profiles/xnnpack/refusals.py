"""Why XNNPACK leaves a TFLite operator to the built-in kernels.

Whether it does is the runtime's word alone. The reason is not to be had from it: the delegate
writes its log lines only in builds with XNNPACK_DELEGATE_ENABLE_LOGGING, and the published
wheels are not such builds. :mod:`~mnv4_deploy.profiles.xnnpack.rules` restates the checks of
LiteRT's ``xnnpack_delegate.cc``, so it only explains a refusal that was observed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator

from mnv4_deploy.profiles.records.graph import ModelGraph, Operator, Tensor
from mnv4_deploy.profiles.xnnpack.checks import ALWAYS, DETAILS, LAST, OTHERS, Check
from mnv4_deploy.profiles.xnnpack.rules import RULES, Rule, ScaleRatio

UNKNOWN = "the runtime does not say"

_NUMBER = re.compile(r"-?\d[\d.e+-]*")
_FLOATS = ("float32", "float16")
_QUANTIZED = ("int8", "uint8")
# Of what XNNPACK unpacks stored weights when it loads a model.
_UNPACKED = ("float16", "int8")


def explain_refusals(graph: ModelGraph, indices: Iterable[int]) -> dict[int, str]:
    """One sentence for each of the operators ``indices`` on why XNNPACK did not take it, or
    :data:`UNKNOWN`."""
    left = tuple(indices)
    stored = _stored(graph)
    return {index: _explained(graph, graph.ops[index], stored, left) for index in left}


def grouped(reasons: Iterable[tuple[str, str]]) -> list[tuple[int, str, str]]:
    """How many operators, of which kind, and why, for pairs of kind and reason.

    Reasons that differ in their numbers alone are one, with the first's.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for kind, reason in reasons:
        found.setdefault((kind, _NUMBER.sub("#", reason)), []).append(reason)
    return [
        (
            len(told),
            kind,
            told[0] + (" (others differ in the numbers)" if len(set(told)) > 1 else ""),
        )
        for (kind, _), told in found.items()
    ]


def _stored(graph: ModelGraph) -> frozenset[int]:
    """The tensors that XNNPACK has as constants: the file's, and what it unpacks of them once."""
    found = {index for index, tensor in enumerate(graph.tensors) if tensor.constant}
    for op in graph.ops:
        if _unpacks(graph, op) and found.issuperset(op.inputs):
            found.update(op.outputs)
    return frozenset(found)


def _unpacks(graph: ModelGraph, op: Operator) -> bool:
    if op.kind == "DENSIFY":
        return True
    return op.kind == "DEQUANTIZE" and all(t.dtype in _UNPACKED for t in graph.sources(op))


def _explained(
    graph: ModelGraph, op: Operator, stored: Collection[int], left: Collection[int]
) -> str:
    rule = RULES.get(op.kind)
    if op.kind in ("DEQUANTIZE", "DENSIFY") and all(t in stored for t in op.inputs):
        return _kept_packed(graph, op, left)
    if rule is None or not rule.float32:
        special = OTHERS.get(op.kind)
        return (special and special(graph, op)) or f"XNNPACK has no {op.kind}"
    checks = (*_checks(rule, stored), *DETAILS.get(op.kind, ()), *ALWAYS)
    if op.kind in LAST:
        checks = (*checks, LAST[op.kind])
    for check in checks:
        reason = check(graph, op)
        if reason:
            return reason
    return UNKNOWN


def _kept_packed(graph: ModelGraph, op: Operator, left: Collection[int]) -> str:
    """Why weights stay packed until the model runs."""
    if not _unpacks(graph, op):
        kinds = "/".join(dict.fromkeys(t.dtype for t in graph.sources(op)))
        return f"XNNPACK unpacks stored weights of int8 and float16, and these are {kinds}"
    outside = [r.kind for r in graph.ops if r.index in left and set(op.outputs) & set(r.inputs)]
    if outside:
        return f"it unpacks the weights of {outside[0]}, which is outside XNNPACK itself"
    return UNKNOWN


def scale_refusal(graph: ModelGraph, op: Operator) -> str | None:
    """Why XNNPACK will not take ``op``, in 8 bits, for its scales; None where they are right."""
    rule = RULES.get(op.kind)
    if rule is None or rule.scale_ratio is None:
        return None
    if graph.tensors[op.outputs[0]].dtype not in _QUANTIZED:
        return None
    return _scales(rule.scale_ratio)(graph, op)


def _scales(limits: ScaleRatio) -> Check:
    return _product_ratio(limits) if limits.of_product else _ratio(limits)


def _checks(rule: Rule, stored: Collection[int]) -> Iterator[Check]:
    """What to look for, the plainest reason first. ``stored``: tensors that XNNPACK has as
    constants."""
    if rule.counts is not None:
        yield _count(*rule.counts)
    if not rule.int8:
        yield _float_only
    if rule.operands:
        yield _float_or_8bit(rule.operands)
    if rule.same_8_bits:
        yield _same_8_bits
    if rule.same_types:
        yield _same_types
    for index, what in rule.constants:
        yield _constant(index, what, stored)
    if rule.symmetric_second:
        yield _second_symmetric
    if rule.scale_ratio is not None:
        yield _scales(rule.scale_ratio)
    if rule.same_quantization:
        yield _same_quantization
    if not rule.dynamic and any(what == "the weight" for _, what in rule.constants):
        yield _weight_alone_in_8_bits


def _operands(graph: ModelGraph, op: Operator) -> list[tuple[str, Tensor]]:
    named = [(f"input {i}", graph.tensors[t]) for i, t in enumerate(op.inputs) if t >= 0]
    return named + [(f"output {i}", graph.tensors[t]) for i, t in enumerate(op.outputs)]


def _float_only(graph: ModelGraph, op: Operator) -> str | None:
    for role, tensor in _operands(graph, op):
        if tensor.dtype not in _FLOATS and not tensor.constant:
            return f"XNNPACK takes {op.kind} in float only, and {role} is {tensor.dtype}"
    return None


def _float_or_8bit(count: int) -> Check:
    """The first ``count`` inputs and every output must be float or per-tensor int8/uint8."""

    def check(graph: ModelGraph, op: Operator) -> str | None:
        for role, tensor in _operands(graph, op):
            if role.startswith("input") and int(role.split()[1]) >= count:
                continue
            if tensor.dtype not in (*_FLOATS, *_QUANTIZED):
                return f"XNNPACK takes {op.kind} in float or 8 bits, and {role} is {tensor.dtype}"
            if tensor.dtype in _QUANTIZED and not tensor.scale:
                return f"{role} is {tensor.dtype} without quantization parameters"
            if tensor.dtype in _QUANTIZED and len(tensor.scale) > 1 and not tensor.constant:
                return f"{role} is quantized per channel, and XNNPACK wants one scale for it"
        return None

    return check


def _same_types(graph: ModelGraph, op: Operator) -> str | None:
    kinds = {t.dtype for _, t in _operands(graph, op)}
    return f"its operands mix {' and '.join(sorted(kinds))}" if len(kinds) > 1 else None


def _constant(index: int, what: str, stored: Collection[int]) -> Check:
    def check(graph: ModelGraph, op: Operator) -> str | None:
        source = op.inputs[index] if index < len(op.inputs) else -1
        if source < 0 or source in stored:
            return None
        packed = next(
            (o for o in graph.ops if source in o.outputs and o.kind == "DEQUANTIZE"), None
        )
        if packed is not None and all(t.constant for t in graph.sources(packed)):
            dtype = graph.sources(packed)[0].dtype
            return f"{what} is unpacked from {dtype} in every run, and XNNPACK wants a constant"
        return f"{what} is computed at run time, and XNNPACK wants a constant"

    return check


def _second_symmetric(graph: ModelGraph, op: Operator) -> str | None:
    first, second = (graph.tensors[i] for i in op.inputs[:2])
    if first.dtype != second.dtype and not (first.dtype == "float32" and second.dtype == "int8"):
        return f"its operands mix {first.dtype} and {second.dtype}"
    if second.dtype == "int8" and first.dtype == "int8" and any(second.zero_point):
        return (
            f"the second operand's zero point is {second.zero_point[0]}, and XNNPACK wants 0"
            " (symmetric quantization)"
        )
    if second.dtype == "uint8":
        return "XNNPACK multiplies int8 matrices, and these are uint8"
    return None


def _ratio(limits: ScaleRatio) -> Check:
    def check(graph: ModelGraph, op: Operator) -> str | None:
        output = graph.tensors[op.outputs[0]]
        for i, index in enumerate(op.inputs):
            tensor = graph.tensors[index] if index >= 0 else None
            if tensor is None or tensor.dtype != output.dtype:
                continue
            if tensor.scale and output.scale:
                ratio = tensor.scale[0] / output.scale[0]
                if not limits.holds(ratio):
                    return (
                        f"the scale of input {i} is {ratio:.3g} times the output's, and XNNPACK"
                        f" wants {_range(limits)}"
                    )
        return None

    return check


def _range(limits: ScaleRatio) -> str:
    return f"1/{1 / limits.low:.0f} to {limits.high:.0f}"


def _product_ratio(limits: ScaleRatio) -> Check:
    def check(graph: ModelGraph, op: Operator) -> str | None:
        first, second = (graph.tensors[i] for i in op.inputs[:2])
        output = graph.tensors[op.outputs[0]]
        if not (first.scale and second.scale and output.scale):
            return None
        ratio = first.scale[0] * second.scale[0] / output.scale[0]
        if limits.holds(ratio):
            return None
        return (
            f"the product of the input scales is {ratio:.3g} times the output's, and XNNPACK"
            f" wants {_range(limits)}"
        )

    return check


def _same_quantization(graph: ModelGraph, op: Operator) -> str | None:
    output = graph.tensors[op.outputs[0]]
    for i, index in enumerate(op.inputs):
        tensor = graph.tensors[index] if index >= 0 else output
        if tensor.dtype != output.dtype or tensor.dtype not in _QUANTIZED:
            continue
        if tensor.zero_point != output.zero_point or tensor.scale != output.scale:
            return f"input {i} and the output differ in quantization, and XNNPACK wants them equal"
    return None


def _same_8_bits(graph: ModelGraph, op: Operator) -> str | None:
    source, target = graph.tensors[op.inputs[0]], graph.tensors[op.outputs[0]]
    if source.dtype in _QUANTIZED and source.dtype != target.dtype:
        return f"XNNPACK does not requantize {source.dtype} to {target.dtype}"
    return None


def _count(fewest: int, most: int) -> Check:
    def check(graph: ModelGraph, op: Operator) -> str | None:
        del graph
        if not fewest <= len(op.inputs) <= most:
            return f"it joins {len(op.inputs)} tensors, and XNNPACK takes {fewest} to {most}"
        return None

    return check


def _weight_alone_in_8_bits(graph: ModelGraph, op: Operator) -> str | None:
    source, weight = (graph.tensors[i] for i in op.inputs[:2])
    if source.dtype == "float32" and weight.dtype == "int8":
        return (
            f"its weight is int8 and its input float32, and XNNPACK does not quantize the input"
            f" of {op.kind} at run time"
        )
    return None
