"""What XNNPACK's delegate asks of single kinds of operators, beyond types, constants and scales.

Restates ``xnnpack_delegate.cc`` like :mod:`~mnv4_deploy.profiles.xnnpack.rules`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mnv4_deploy.profiles.records.graph import ModelGraph, Operator, Tensor

Check = Callable[[ModelGraph, Operator], str | None]

_MAX_RANK = 6  # XNN_MAX_TENSOR_DIMS
_FLOATS = ("float32", "float16")
_WEIGHTS = (*_FLOATS, "int8", "uint8")
_FEW_BITS = ("int4", "int2")
_FUSED = ("NONE", "RELU", "RELU6", "RELU_N1_TO_1")
# What a full row of these must be a multiple of, for whole bytes.
_VALUES_PER_BYTE = {"int4": 2, "int2": 4}


def _at(graph: ModelGraph, op: Operator, position: int) -> Tensor | None:
    index = op.inputs[position] if position < len(op.inputs) else -1
    return graph.tensors[index] if index >= 0 else None


def _with_bias(graph: ModelGraph, op: Operator) -> str | None:
    if _at(graph, op, 2) is None:
        return f"it has no bias, and XNNPACK takes {op.kind} with one only"
    return None


def _weight(source_at: int, axis: int, few_bits: bool = False) -> Check:
    """The weight's type, beside the input's at ``source_at``, and the axis of its scales."""

    def check(graph: ModelGraph, op: Operator) -> str | None:
        source, weight = _at(graph, op, source_at), _at(graph, op, 1)
        if source is None or weight is None:
            return None
        allowed = (*_WEIGHTS, *_FEW_BITS) if few_bits else _WEIGHTS
        if weight.dtype not in allowed:
            return (
                f"its weight is {weight.dtype}, and XNNPACK wants {op.kind}'s in float or 8 bits"
            )
        if len(weight.scale) > 1 and weight.axis != axis:
            return (
                f"its weight has scales along axis {weight.axis}, and XNNPACK wants them along"
                f" axis {axis}"
            )
        per_byte = _VALUES_PER_BYTE.get(weight.dtype, 1)
        if weight.shape and weight.shape[-1] % per_byte:
            return (
                f"its {weight.dtype} weight has {weight.shape[-1]} input channels, and XNNPACK"
                f" wants a multiple of {per_byte}"
            )
        integers = {source.dtype, weight.dtype} - {*_FLOATS, *_FEW_BITS}
        if len(integers) > 1 or (source.dtype == "int8" and weight.dtype in _FLOATS):
            return f"its input is {source.dtype} and its weight {weight.dtype}"
        return None

    return check


def _same_result(source_at: int) -> Check:
    def check(graph: ModelGraph, op: Operator) -> str | None:
        source, target = _at(graph, op, source_at), graph.tensors[op.outputs[0]]
        if source is not None and source.dtype != target.dtype:
            return f"its input is {source.dtype} and its output {target.dtype}"
        return None

    return check


def _plain_format(_graph: ModelGraph, op: Operator) -> str | None:
    if op.attributes.get("weights_format", 0):
        return "its weight is stored shuffled, and XNNPACK wants it as it is"
    return None


def _window(_graph: ModelGraph, op: Operator) -> str | None:
    for side in ("height", "width"):
        size = int(str(op.attributes.get(f"filter_{side}", 1)))
        step = int(str(op.attributes.get(f"stride_{side[0]}", 1)))
        if step > size:
            return f"its stride of {step} is larger than its window of {size}"
    return None


def _unit_beta(_graph: ModelGraph, op: Operator) -> str | None:
    beta = op.attributes.get("beta", 1.0)
    return f"its beta is {beta:g}, and XNNPACK wants 1" if beta != 1.0 else None


def _slope(_graph: ModelGraph, op: Operator) -> str | None:
    alpha = op.attributes.get("alpha", 0.0)
    return "its alpha is 0, and XNNPACK wants another" if alpha == 0.0 else None


def _outputs(fewest: int, most: int) -> Check:
    def check(_graph: ModelGraph, op: Operator) -> str | None:
        if not fewest <= len(op.outputs) <= most:
            return f"it has {len(op.outputs)} outputs, and XNNPACK takes {fewest} to {most}"
        return None

    return check


def _plain_slice(graph: ModelGraph, op: Operator) -> str | None:
    masks = ("ellipsis_mask", "new_axis_mask", "shrink_axis_mask")
    used = [name for name in masks if op.attributes.get(name)]
    if used:
        return f"it has a {used[0].replace('_', ' ')}, and XNNPACK takes none"
    source, beginning = _at(graph, op, 0), _at(graph, op, 1)
    if source and beginning and beginning.shape != (len(source.shape),):
        return "it slices some axes of many, and XNNPACK wants all of them given"
    return None


def _unit_steps(_graph: ModelGraph, _op: Operator) -> str | None:
    """By elimination, asked last: the values of the steps are not at hand here."""
    return "its steps are not all 1"


def _ends_in_clamp(_graph: ModelGraph, op: Operator) -> str | None:
    fused = str(op.attributes.get("fused_activation_function", "NONE"))
    return f"it ends in {fused}, which XNNPACK does not fuse" if fused not in _FUSED else None


def _few_dimensions(graph: ModelGraph, op: Operator) -> str | None:
    most = max(
        (len(graph.tensors[t].shape) for t in (*op.inputs, *op.outputs) if t >= 0), default=0
    )
    if most > _MAX_RANK:
        return f"it has tensors of {most} dimensions, and XNNPACK takes {_MAX_RANK} at most"
    return None


def _axes_in_int32(graph: ModelGraph, op: Operator) -> str | None:
    axes = _at(graph, op, 1)
    if axes is not None and axes.dtype != "int32":
        return f"its parameter is {axes.dtype}, and XNNPACK wants int32"
    return None


def _as_first(graph: ModelGraph, op: Operator) -> str | None:
    """The second operand of an 8-bit product has one scale, as the first."""
    first, second = _at(graph, op, 0), _at(graph, op, 1)
    if first is None or second is None:
        return None
    if first.dtype == second.dtype == "int8" and len(second.scale) > 1:
        return "its second operand has a scale for each channel, and XNNPACK wants one for all"
    return None


def _value(graph: ModelGraph, op: Operator) -> str | None:
    """What a variable is read into, or written from."""
    tensor = graph.tensors[op.outputs[0]] if op.outputs else _at(graph, op, 1)
    if tensor is None:
        return None
    if tensor.dtype not in (*_FLOATS, "int8", "uint8"):
        return f"its variable is {tensor.dtype}, and XNNPACK wants float or 8 bits"
    if not tensor.shape:
        return "its variable has no dimensions, and XNNPACK wants some"
    return None


def _handled(graph: ModelGraph, op: Operator) -> str | None:
    using = [o for o in graph.ops if set(o.inputs) & set(op.outputs)]
    reasons = [_value(graph, o) for o in using if o.kind in _VARIABLES]
    return next((reason for reason in reasons if reason), None) or (
        None if using else "nothing in its graph reads or writes it"
    )


def _composite(_graph: ModelGraph, op: Operator) -> str | None:
    name = op.attributes.get("name", "")
    if name != _ATTENTION:
        return f"XNNPACK has no composite {name}"
    return "XNNPACK takes this composite in float32 with a mask and a scale only"


_VARIABLES = ("READ_VARIABLE", "ASSIGN_VARIABLE")
_ATTENTION = "odml.scaled_dot_product_attention"
_REDUCTION = (_axes_in_int32,)
DETAILS: Mapping[str, tuple[Check, ...]] = {
    "CONV_2D": (_with_bias, _weight(0, 0), _same_result(0)),
    "DEPTHWISE_CONV_2D": (_with_bias, _weight(0, 3), _same_result(0)),
    "FULLY_CONNECTED": (_plain_format, _weight(0, 0, few_bits=True), _same_result(0)),
    "TRANSPOSE_CONV": (_weight(2, 0), _same_result(2)),
    "BATCH_MATMUL": (_as_first, _same_result(0)),
    "AVERAGE_POOL_2D": (_window,),
    "MAX_POOL_2D": (_window,),
    "SOFTMAX": (_unit_beta,),
    "LEAKY_RELU": (_slope,),
    "SPLIT": (_outputs(2, 4),),
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "PAD", "RESHAPE"), _REDUCTION),
    "RESIZE_BILINEAR": _REDUCTION,
    "STRIDED_SLICE": (_plain_slice,),
    "VAR_HANDLE": (_handled,),
    **dict.fromkeys(_VARIABLES, (_value,)),
}
ALWAYS: tuple[Check, ...] = (_ends_in_clamp, _few_dimensions)
# Operators without a rule of their own.
OTHERS: Mapping[str, Check] = {"STABLEHLO_COMPOSITE": _composite}
LAST: Mapping[str, Check] = {"STRIDED_SLICE": _unit_steps}
