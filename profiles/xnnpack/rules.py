"""What XNNPACK takes of TFLite, operator by operator, and the kernels it runs them as.

The one table that quantization, the reasons for refusals and the alignment of kernels read. It
restates LiteRT's ``tflite/delegates/xnnpack/xnnpack_delegate.cc`` (one ``Visit...Node`` per
operator) of ai-edge-litert 2.3.0, and was found by running one small graph per operator in each
type. The tests ask the runtime about every row again but uint8.

Kernel names are the beginning of XNNPACK's operator names (``xnn_operator_type_to_string``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Kernels:
    """``main``: what does the operator's work; ``before`` and ``after``: what can go with it."""

    main: tuple[str, ...]
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class ScaleRatio:
    """The range ``[low, high)`` of an input's scale over the output's.

    ``of_product``: that of the product of both inputs' scales over the output's.
    """

    low: float
    high: float
    of_product: bool = False

    def holds(self, ratio: float) -> bool:
        return self.low <= ratio < self.high


@dataclass(frozen=True)
class Rule:
    """What XNNPACK takes of one TFLite operator.

    ``float32``: whether it takes it at all. ``int8``: with activations in 8 bits too.
    ``dynamic``: with float activations and constant int8 weights.

    ``operands``: how many inputs, from the first, carry activations, which are then all per
    tensor; 0 where no type was seen to matter. ``counts``: fewest and most inputs.
    ``constants``: position and role of inputs that must be constant. ``same_types``: of all
    operands. ``same_quantization``: of inputs and output. ``same_8_bits``: never int8 to uint8.
    ``symmetric_second``: an int8 second operand has zero point 0. ``lookup``: a function of one
    operand, which in 8 bits is a table that other such functions can join.
    """

    kernels: Kernels
    float32: bool = True
    int8: bool = False
    dynamic: bool = False
    operands: int = 0
    counts: tuple[int, int] | None = None
    constants: tuple[tuple[int, str], ...] = ()
    same_types: bool = False
    same_quantization: bool = False
    same_8_bits: bool = False
    symmetric_second: bool = False
    scale_ratio: ScaleRatio | None = None
    lookup: bool = False


_CLAMP = ("Clamp",)
_RESHAPED = ("Static Reshape",)
# Functions of one operand and conversions in a row, from 8 bits to 8 bits, become one lookup in
# a table of 256 entries, which XNNPACK has no name for.
_TABLE = ("Invalid Unary Op", "Unary Elementwise")


def _function(*names: str, int8: bool = False) -> Rule:
    return Rule(Kernels((*names, *_TABLE)), int8=int8, operands=int(int8), lookup=True)


def _binary(*names: str, ratio: ScaleRatio) -> Rule:
    kernels = Kernels(names, after=_CLAMP)
    return Rule(kernels, int8=True, operands=2, same_types=True, scale_ratio=ratio)


def _moves(kernels: Kernels) -> Rule:
    """Data is moved or reduced as a constant parameter says."""
    return Rule(kernels, int8=True, operands=1, constants=((1, "its parameter"),))


def _refused(*names: str) -> Rule:
    """XNNPACK has kernels of these names, and the delegate takes no such operator."""
    return Rule(Kernels(names), float32=False)


_CONVOLUTION = Rule(
    Kernels(("Convolution",), ("Convert", "Constant Pad")),
    int8=True,
    operands=1,
    constants=((1, "the weight"), (2, "the bias")),
)
_RESHAPE = Rule(
    Kernels(("Static Reshape", "Copy", "Fuse Dims", "Split Dims")),
    int8=True,
    operands=1,
    constants=((1, "its parameter"),),
    same_quantization=True,
)
_ADDITION = ScaleRatio(2.0**-10, 2.0**8)

RULES: Mapping[str, Rule] = {
    # Functions of one operand.
    "ABS": _function("Abs"),
    "CEIL": _function("Ceiling"),
    "COS": _function("Cosine"),
    "ELU": _function("ELU", int8=True),
    "EXP": _function("Exp"),
    "FLOOR": _function("Floor"),
    "GELU": _function("GELU", "ApproxGELU"),
    "HARD_SWISH": _function("HardSwish"),
    "LEAKY_RELU": _function("LeakyReLU", int8=True),
    "LOG": _function("Log"),
    "LOGISTIC": _function("Sigmoid", int8=True),
    "NEG": _function("Negate"),
    "RELU": _function("Clamp", "Maximum"),
    "RELU6": _function("Clamp", "Maximum"),
    "RELU_N1_TO_1": _function("Clamp", "Maximum"),
    "RELU_0_TO_1": replace(_function("Clamp", "Maximum"), float32=False),
    "ROUND": _function("Bankers Rounding", "Bankders Rounding"),
    "RSQRT": _function("Reciprocal Square Root"),
    "SIN": _function("Sine"),
    "SQRT": _function("Square Root"),
    "SQUARE": _function("Square"),
    "TANH": _function("TanH", int8=True),
    # Two operands.
    "ADD": _binary("Add", ratio=_ADDITION),
    "SUB": _binary("Subtract", ratio=_ADDITION),
    "MUL": _binary("Multiply", "Square", ratio=ScaleRatio(2.0**-16, 2.0**8, of_product=True)),
    "DIV": Rule(Kernels(("Divide",), after=_CLAMP)),
    "MAXIMUM": Rule(Kernels(("Maximum",))),
    "MINIMUM": Rule(Kernels(("Minimum",))),
    "SQUARED_DIFFERENCE": Rule(Kernels(("Squared Difference",))),
    "PRELU": Rule(Kernels(("PReLU",))),
    "POW": _refused("Power"),
    # Weights and products.
    "CONV_2D": replace(
        _CONVOLUTION,
        kernels=Kernels(("Convolution", "Fully Connected"), ("Convert", "Constant Pad", "Copy")),
        dynamic=True,
    ),
    "DEPTHWISE_CONV_2D": _CONVOLUTION,
    "FULLY_CONNECTED": replace(
        _CONVOLUTION,
        kernels=Kernels(
            ("Fully Connected", "Dynamic Fully Connected"), ("Convert", *_RESHAPED), _RESHAPED
        ),
        dynamic=True,
    ),
    "TRANSPOSE_CONV": Rule(
        Kernels(("Deconvolution",), ("Convert",)),
        int8=True,
        dynamic=True,
        constants=((0, "its output shape"), (1, "the weight")),
    ),
    "BATCH_MATMUL": Rule(
        Kernels(
            ("Batch Matrix Multiply", "Fully Connected"), ("Convert", "Transpose", "Copy", "Pack")
        ),
        int8=True,
        dynamic=True,
        operands=2,
        symmetric_second=True,
    ),
    "SOFTMAX": Rule(Kernels(("Softmax",), ("Multiply", "Convert"), ("Convert",))),
    # Windows and reductions.
    "AVERAGE_POOL_2D": Rule(Kernels(("Average Pooling", "Mean", "Clamp", "Copy"), after=_CLAMP)),
    "MAX_POOL_2D": Rule(
        Kernels(("Max Pooling", "Clamp", "Copy"), after=_CLAMP), int8=True, operands=1
    ),
    "MEAN": _moves(Kernels(("Mean", "Reduce", "Average Pooling"), after=_RESHAPED)),
    "SUM": _moves(Kernels(("Sum", "Reduce"), after=_RESHAPED)),
    "REDUCE_MAX": _moves(Kernels(("Reduce Max",), after=_RESHAPED)),
    "REDUCE_MIN": _moves(Kernels(("Reduce Min",), after=_RESHAPED)),
    "RESIZE_BILINEAR": _moves(Kernels(("Resize Bilinear",))),
    # Where data lies, and in what type.
    "PAD": _moves(Kernels(("Constant Pad",))),
    "PADV2": _refused("Constant Pad"),
    "RESHAPE": _RESHAPE,
    "SQUEEZE": _refused("Static Reshape", "Copy"),
    "EXPAND_DIMS": _refused("Static Expand Dims", "Static Reshape", "Copy"),
    "TRANSPOSE": _moves(Kernels(("Transpose", "Static Reshape"))),
    "SLICE": replace(
        _moves(Kernels(("Slice",))), constants=((1, "its beginning"), (2, "its size"))
    ),
    "STRIDED_SLICE": replace(
        _moves(Kernels(("Slice",))),
        constants=((1, "its beginning"), (2, "its end"), (3, "its step")),
    ),
    "SPLIT": Rule(
        Kernels(("Copy", "Even Split", "Slice"), ("Copy", "Slice")),
        int8=True,
        constants=((0, "its axis"),),
    ),
    "CONCATENATION": Rule(
        Kernels(("Copy", "Concatenate"), ("Copy",)),
        int8=True,
        operands=5,
        counts=(2, 5),
        same_quantization=True,
    ),
    "DEPTH_TO_SPACE": Rule(Kernels(("Depth To Space",)), int8=True, operands=1),
    "SPACE_TO_DEPTH": Rule(Kernels(("Space To Depth",)), int8=True, operands=1),
    "QUANTIZE": Rule(
        Kernels(("Convert",)),
        int8=True,
        operands=1,
        same_8_bits=True,
        scale_ratio=ScaleRatio(2.0**-8, 2.0**7),
    ),
    "DEQUANTIZE": Rule(Kernels(("Convert",)), int8=True, operands=1),
    "CAST": _refused("Convert"),
    # Resource variables; a handle is taken with what reads and writes it.
    "VAR_HANDLE": Rule(Kernels(()), int8=True),
    "ASSIGN_VARIABLE": Rule(Kernels(("Copy",)), int8=True),
    "READ_VARIABLE": Rule(Kernels(("Copy",)), int8=True),
}

FLOAT_ONLY = frozenset(kind for kind, rule in RULES.items() if rule.float32 and not rule.int8)
