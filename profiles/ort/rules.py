"""What onnxruntime's CPU provider runs in 8 bits between Q/DQ pairs, operator by operator.

The one table that quantization and the reasons for float operators read. It restates the QDQ
rules of onnxruntime 1.31 (``qdq_transformer/``: its selectors and its propagation), and was found
by running one small graph per operator. The tests ask the runtime about every row again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

# What stands in a file for arithmetic in integers, by the beginning of an operator's name.
INTEGER_KERNELS = ("QLinear", "QGemm", "QAttention", "MatMulInteger", "ConvInteger", "DynamicQ")
CONVERSIONS = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class Rule:
    """How one operator runs in 8 bits.

    ``way``: "kernel": by an int8 kernel, which needs a DequantizeLinear before every operand and
    a QuantizeLinear behind the result; "moves": by the kernel that also moves floats, if what it
    reads and what it writes have one scale and zero point; "clips": as part of a QuantizeLinear
    behind it whose range ends where it clips; "none": not at all.

    ``operands``: positions of the inputs that must be quantized, None for all. ``writes_float``:
    its int8 kernel needs no QuantizeLinear behind it. ``passes``: onnxruntime moves a Q or DQ
    from one side of it to the other, so that a pair on one side is enough. ``wide``: in 16 bits
    too. ``mode``: the only value of the attribute of that name. ``quantized``: our exporter
    quantizes it; the others were not timed, or are ``slower``, which says how much.
    """

    way: Literal["kernel", "moves", "clips", "none"]
    operands: tuple[int, ...] | None = None
    writes_float: bool = False
    passes: bool = False
    wide: bool = False
    mode: str = ""
    quantized: bool = False
    slower: str = ""


def _moves(
    *, passes: bool = False, wide: bool = True, mode: str = "", quantized: bool = False
) -> Rule:
    return Rule("moves", (0,), passes=passes, wide=wide, mode=mode, quantized=quantized)


RULES: Mapping[str, Rule] = {
    # The quantized ones were timed in MobileNetV4.
    "Conv": Rule("kernel", quantized=True),
    "Gemm": Rule("kernel", writes_float=True, quantized=True),
    "MatMul": Rule("kernel", writes_float=True, quantized=True),
    "Add": Rule("kernel", quantized=True),
    "Mul": Rule("kernel"),
    "Where": Rule("kernel", (1, 2)),
    "Concat": Rule("kernel", quantized=True),
    "AveragePool": Rule("kernel", quantized=True),
    "GlobalAveragePool": Rule("kernel", quantized=True),
    "LeakyRelu": Rule("kernel"),
    "Sigmoid": Rule("kernel"),
    # Hybrid-M, AVX2, sum of 8: 1040 us in int8, 260 us in float.
    "Softmax": Rule("kernel", slower="its int8 kernel takes 4 times as long as the float one"),
    "ArgMax": Rule("kernel", writes_float=True),
    "Relu": Rule("clips", (), quantized=True),
    "Clip": Rule("clips", (), quantized=True),
    "MaxPool": _moves(passes=True, wide=False, quantized=True),
    "ReduceMax": _moves(wide=False),
    "ReduceMin": _moves(wide=False),
    "Resize": _moves(mode="nearest", wide=False, quantized=True),
    "Reshape": _moves(passes=True, quantized=True),
    "Transpose": _moves(passes=True, quantized=True),
    "Squeeze": _moves(passes=True, quantized=True),
    "Unsqueeze": _moves(passes=True, quantized=True),
    "Slice": _moves(passes=True, quantized=True),
    "Flatten": _moves(quantized=True),
    "Split": _moves(quantized=True),
    "Gather": _moves(),
    "GatherElements": _moves(),
    "Expand": _moves(),
    "Tile": _moves(),
    "DepthToSpace": _moves(wide=False),
    # onnxruntime pads codes in files that ask for it, but makes no such operator of a pair.
    "Pad": Rule("none", quantized=True),
}

# What our exporter puts pairs around.
INT8_OPS = frozenset(kind for kind, rule in RULES.items() if rule.quantized)

NO_KERNEL = "onnxruntime has no int8 kernel for it between Q/DQ pairs"
FIRST_CONVOLUTION = "it reads few channels of float input, and converting them costs more"
# Of an image's channels, an int8 kernel, which works on whole groups of them, makes little.
FEW_CHANNELS = 4
