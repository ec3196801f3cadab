"""Operators whose work is a fixed number of scalar operations for each element."""

from __future__ import annotations

from mnv4_deploy.profiles.costs.work import (
    CostFunction,
    Work,
    fused_activation_ops,
    kinds,
    source,
    target,
)
from mnv4_deploy.profiles.records.graph import ModelGraph, Operator

_GELU_ERF = 5  # x/sqrt(2), erf, +1, *x, *0.5
_GELU_TANH = 9  # x*x, *x, *0.044715, +x, *sqrt(2/pi), tanh, +1, *x, *0.5


def per_output(ops: int) -> CostFunction:
    """``ops`` for each element of the first output."""

    def cost(graph: ModelGraph, op: Operator) -> Work:
        return Work(0, ops * target(graph, op).elements + fused_activation_ops(graph, op))

    return cost


def per_input(ops: int) -> CostFunction:
    """``ops`` for each element of the first input."""

    def cost(graph: ModelGraph, op: Operator) -> Work:
        return Work(0, ops * source(graph, op).elements)

    return cost


def combine(*, last: int = 0) -> CostFunction:
    """Broadcast operands: one operation for each after the first, and ``last`` in the end."""

    def cost(graph: ModelGraph, op: Operator) -> Work:
        ops = len(graph.sources(op)) - 1 + last
        return Work(0, ops * target(graph, op).elements)

    return cost


def gelu(graph: ModelGraph, op: Operator) -> Work:
    approximate = op.attributes.get("approximate", False) in (True, "tanh")
    return Work(0, (_GELU_TANH if approximate else _GELU_ERF) * target(graph, op).elements)


def local_response(graph: ModelGraph, op: Operator) -> Work:
    """Square, sum over ``size`` channels, scale and shift, power, divide (TFLite: ``radius``)."""
    size = op.attributes.get("size")
    if not isinstance(size, int):
        size = 2 * int(str(op.attributes.get("radius", 0))) + 1
    return Work(0, (size + 4) * target(graph, op).elements)


# Operations for each output element, by kind.
OPS_PER_OUTPUT = {
    # One operation or elementary function.
    **dict.fromkeys(
        kinds("""ABS NEG EXP LOG SQRT SQUARE SIN COS FLOOR CEIL ROUND SIGN RELU TANH
        LOGICAL_NOT CAST RANGE CUMSUM
        Abs Neg Exp Log Sqrt Reciprocal Sin Cos Tan Asin Acos Atan Sinh Cosh Asinh Acosh Atanh
        Floor Ceil Round Sign Relu Tanh Erf Not IsNaN IsInf BitwiseNot ThresholdedRelu Cast
        CastLike Range CumSum"""),
        1,
    ),
    # Two operands.
    **dict.fromkeys(
        kinds("""ADD SUB MUL DIV MAXIMUM MINIMUM POW FLOOR_DIV FLOOR_MOD ATAN2 EQUAL NOT_EQUAL
        GREATER GREATER_EQUAL LESS LESS_EQUAL LOGICAL_AND LOGICAL_OR SELECT SELECT_V2 BITWISE_XOR
        RIGHT_SHIFT
        Add Sub Mul Div Pow Mod Equal Greater GreaterOrEqual Less LessOrEqual And Or Xor Where
        BitShift BitwiseAnd BitwiseOr BitwiseXor QLinearAdd QLinearMul QLinearWhere"""),
        1,
    ),
    "SQUARED_DIFFERENCE": 2,
    # Activations.
    **dict.fromkeys(("RELU6", "RELU_0_TO_1", "RELU_N1_TO_1", "Clip"), 2),
    **dict.fromkeys(("LEAKY_RELU", "PRELU", "LeakyRelu", "PRelu", "QLinearLeakyRelu"), 2),
    **dict.fromkeys(("ELU", "Elu"), 3),  # compare, exp, -1
    **dict.fromkeys(("Selu", "Celu"), 4),
    "RSQRT": 2,
    **dict.fromkeys(("LOGISTIC", "Sigmoid", "QLinearSigmoid"), 4),  # negate, exp, +1, reciprocal
    "HardSigmoid": 4,  # scale, shift, two comparisons
    **dict.fromkeys(("HARD_SWISH", "HardSwish"), 5),
    **dict.fromkeys(("Softplus", "Softsign"), 3),
    **dict.fromkeys(("Mish", "Swish"), 5),
    "QuickGelu": 6,
    "FastGelu": _GELU_TANH,
    "BiasGelu": _GELU_ERF + 1,
    # Maximum, subtract, exp, sum, divide; with the logarithm: subtract instead of divide.
    **dict.fromkeys(
        ("SOFTMAX", "LOG_SOFTMAX", "Softmax", "LogSoftmax", "QLinearSoftmax", "Hardmax"), 5
    ),
    # Norms. Mean, subtract, square, sum, multiply, scale, shift; the root comes once a row.
    "BatchNormalization": 2,
    **dict.fromkeys(
        ("LayerNormalization", "InstanceNormalization", "GroupNormalization", "GroupNorm"), 7
    ),
    "SkipLayerNormalization": 8,
    "MeanVarianceNormalization": 5,
    **dict.fromkeys(("SimplifiedLayerNormalization", "RMSNormalization"), 4),
    "SkipSimplifiedLayerNormalization": 5,
    **dict.fromkeys(("L2_NORMALIZATION", "LpNormalization"), 3),
    # Scale, round, shift, two comparisons; and back: shift, scale.
    **dict.fromkeys(("QUANTIZE", "FAKE_QUANT", "QuantizeLinear"), 5),
    "DynamicQuantizeLinear": 7,
    **dict.fromkeys(("DEQUANTIZE", "DequantizeLinear"), 2),
}
