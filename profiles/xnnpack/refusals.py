"""Why XNNPACK leaves a TFLite operator to the built-in kernels.

Whether it does is the runtime's word alone. The reason is not to be had from it: the delegate
writes its log lines only in builds with XNNPACK_DELEGATE_ENABLE_LOGGING, and the published
wheels are not such builds. The rules below restate the checks of LiteRT's
``tflite/delegates/xnnpack/xnnpack_delegate.cc`` (one ``Visit...Node`` per operator), so they
only explain a refusal that was observed.
"""

from __future__ import annotations

from collections.abc import Callable

from mnv4_deploy.profiles.graph.tflite_graph import GraphOp, GraphTensor, TfliteGraph

UNKNOWN = "the runtime does not say"

Rule = Callable[[TfliteGraph, GraphOp], str | None]

_FLOATS = ("float32", "float16")
_QUANTIZED = ("int8", "uint8")


def explain_refusal(graph: TfliteGraph, op: GraphOp) -> str:
    """One sentence on why XNNPACK did not take ``op``, or :data:`UNKNOWN`."""
    if op.kind not in _RULES:
        return f"XNNPACK has no {op.kind}"
    for rule in (*_RULES[op.kind], _shapes_known):
        reason = rule(graph, op)
        if reason:
            return reason
    return UNKNOWN


def _operands(graph: TfliteGraph, op: GraphOp) -> list[tuple[str, GraphTensor]]:
    named = [(f"input {i}", graph.tensors[t]) for i, t in enumerate(op.inputs) if t >= 0]
    return named + [(f"output {i}", graph.tensors[t]) for i, t in enumerate(op.outputs)]


def _float_only(graph: TfliteGraph, op: GraphOp) -> str | None:
    for role, tensor in _operands(graph, op):
        if tensor.dtype not in _FLOATS and not tensor.constant:
            return f"XNNPACK takes {op.kind} in float only, and {role} is {tensor.dtype}"
    return None


def _float_or_8bit(count: int) -> Rule:
    """The first ``count`` inputs and every output must be float or per-tensor int8/uint8."""

    def rule(graph: TfliteGraph, op: GraphOp) -> str | None:
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

    return rule


def _same_types(graph: TfliteGraph, op: GraphOp) -> str | None:
    kinds = {t.dtype for _, t in _operands(graph, op)}
    return f"its operands mix {' and '.join(sorted(kinds))}" if len(kinds) > 1 else None


def _constant(index: int, what: str) -> Rule:
    def rule(graph: TfliteGraph, op: GraphOp) -> str | None:
        if index < len(op.inputs) and op.inputs[index] >= 0:
            tensor = graph.tensors[op.inputs[index]]
            if not tensor.constant and op.inputs[index] not in graph.quasi_constant:
                return (
                    f"{what} ({tensor.name}) is computed at run time, and XNNPACK wants a constant"
                )
        return None

    return rule


def _second_symmetric(graph: TfliteGraph, op: GraphOp) -> str | None:
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


def _ratio(low: float, high: float) -> Rule:
    """Each input's scale over the output's, within [low, high)."""

    def rule(graph: TfliteGraph, op: GraphOp) -> str | None:
        output = graph.tensors[op.outputs[0]]
        for i, index in enumerate(op.inputs):
            tensor = graph.tensors[index] if index >= 0 else None
            if tensor is None or tensor.dtype != output.dtype:
                continue
            if tensor.scale and output.scale:
                ratio = tensor.scale[0] / output.scale[0]
                if not low <= ratio < high:
                    return (
                        f"the scale of input {i} is {ratio:.3g} times the output's, and XNNPACK"
                        f" wants 1/{1 / low:.0f} to {high:.0f}"
                    )
        return None

    return rule


def _product_ratio(low: float, high: float) -> Rule:
    def rule(graph: TfliteGraph, op: GraphOp) -> str | None:
        first, second = (graph.tensors[i] for i in op.inputs[:2])
        output = graph.tensors[op.outputs[0]]
        if not (first.scale and second.scale and output.scale):
            return None
        ratio = first.scale[0] * second.scale[0] / output.scale[0]
        if low <= ratio < high:
            return None
        return (
            f"the product of the input scales is {ratio:.3g} times the output's, and XNNPACK"
            f" wants 1/{1 / low:.0f} to {high:.0f}"
        )

    return rule


def _same_quantization(graph: TfliteGraph, op: GraphOp) -> str | None:
    output = graph.tensors[op.outputs[0]]
    for i, index in enumerate(op.inputs):
        tensor = graph.tensors[index] if index >= 0 else output
        if tensor.dtype != output.dtype or tensor.dtype not in _QUANTIZED:
            continue
        if tensor.zero_point != output.zero_point or tensor.scale != output.scale:
            return f"input {i} and the output differ in quantization, and XNNPACK wants them equal"
    return None


def _quantize(graph: TfliteGraph, op: GraphOp) -> str | None:
    source, target = graph.tensors[op.inputs[0]], graph.tensors[op.outputs[0]]
    if source.dtype in _QUANTIZED and source.dtype != target.dtype:
        return f"XNNPACK does not requantize {source.dtype} to {target.dtype}"
    return None


def _concatenation_count(graph: TfliteGraph, op: GraphOp) -> str | None:
    del graph
    if not 2 <= len(op.inputs) <= 5:
        return f"it joins {len(op.inputs)} tensors, and XNNPACK takes 2 to 5"
    return None


def _shapes_known(graph: TfliteGraph, op: GraphOp) -> str | None:
    for role, tensor in _operands(graph, op):
        if any(isinstance(n, int) and n < 0 for n in tensor.shape):
            return f"the shape of {role} is only known at run time"
    return None


_FLOAT_ONLY: tuple[Rule, ...] = (_float_only,)
_MOVES_DATA: tuple[Rule, ...] = (_float_or_8bit(1), _constant(1, "its parameter"))
_CONVOLUTION: tuple[Rule, ...] = (
    _float_or_8bit(1),
    _constant(1, "the weight"),
    _constant(2, "the bias"),
)
_RULES: dict[str, tuple[Rule, ...]] = {
    **dict.fromkeys(
        (
            *("ABS", "CEIL", "COS", "EXP", "FLOOR", "GELU", "HARD_SWISH", "LOG", "NEG", "RELU"),
            *("RELU6", "RELU_N1_TO_1", "ROUND", "RSQRT", "SIN", "SOFTMAX", "SQRT", "SQUARE"),
            *("AVERAGE_POOL_2D", "DIV", "MAXIMUM", "MINIMUM", "PRELU", "SQUARED_DIFFERENCE"),
        ),
        _FLOAT_ONLY,
    ),
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"), _CONVOLUTION),
    "TRANSPOSE_CONV": (_constant(0, "its output shape"), _constant(1, "the weight")),
    **dict.fromkeys(
        (
            *("PAD", "TRANSPOSE", "MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "RESIZE_BILINEAR"),
            *("EXPAND_DIMS", "SLICE", "STRIDED_SLICE"),
        ),
        _MOVES_DATA,
    ),
    "SPLIT": (_constant(0, "its axis"),),
    "RESHAPE": (*_MOVES_DATA, _same_quantization),
    "ADD": (_float_or_8bit(2), _same_types, _ratio(1 / 1024, 256)),
    "SUB": (_float_or_8bit(2), _same_types, _ratio(1 / 1024, 256)),
    "MUL": (_float_or_8bit(2), _same_types, _product_ratio(1 / 65536, 256)),
    "BATCH_MATMUL": (_float_or_8bit(2), _second_symmetric),
    "CONCATENATION": (_concatenation_count, _float_or_8bit(5), _same_quantization),
    **dict.fromkeys(
        ("ELU", "LOGISTIC", "TANH", "LEAKY_RELU", "MAX_POOL_2D", "DEPTH_TO_SPACE"),
        (_float_or_8bit(1),),
    ),
    "SPACE_TO_DEPTH": (_float_or_8bit(1),),
    "DEQUANTIZE": (_float_or_8bit(1),),
    "QUANTIZE": (_float_or_8bit(1), _quantize, _ratio(1 / 256, 128)),
}
