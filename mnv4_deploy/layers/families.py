"""What operators of the three formats have in common."""

from __future__ import annotations

# Operators that only move values or convert their type: no layers of their own.
MOVES = frozenset(
    {
        *("RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS", "SPLIT", "SPLIT_V", "SLICE"),
        *("STRIDED_SLICE", "UNPACK", "PACK", "GATHER", "CAST", "QUANTIZE", "DEQUANTIZE"),
        *("SHAPE", "DENSIFY", "DELEGATE", "BROADCAST_TO", "SPACE_TO_DEPTH", "DEPTH_TO_SPACE"),
        *("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Split", "Slice", "Cast"),
        *("Gather", "Identity", "Dropout", "QuantizeLinear", "DequantizeLinear", "Shape"),
        *("Expand", "Tile", "DepthToSpace", "SpaceToDepth", "Constant", "DropPath"),
        "DynamicQuantizeLinear",
        *("reshape", "view", "permute", "transpose", "flatten", "squeeze", "unsqueeze", "chunk"),
        *("split", "getitem", "getattr", "size", "contiguous", "expand", "float", "to", "dropout"),
    }
)
CONVERSIONS = frozenset({"QUANTIZE", "DEQUANTIZE", "QuantizeLinear", "DequantizeLinear"})
DEQUANTIZE = frozenset({"DEQUANTIZE", "DequantizeLinear"})
# Activations that formats fuse into the operator before them.
FUSED = frozenset(
    {
        *("RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "Relu", "Clip", "ReLU", "ReLU6"),
        *("relu", "relu6", "clamp", "Hardtanh"),
    }
)
WEIGHTED = frozenset(
    {
        *("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL"),
        *("Conv", "Gemm", "MatMul", "QLinearConv", "QLinearMatMul", "QGemm", "ConvTranspose"),
        *("Conv2d", "Linear"),
    }
)
# Their sums become real numbers in the Cast, Mul and Add behind them.
INTEGER_PRODUCTS = frozenset({"ConvInteger", "MatMulInteger"})
PAD, ADD, PRODUCT = "pad", "add", "product"
_FAMILIES = {
    PRODUCT: (
        *("conv2d", "depthwiseconv2d", "fullyconnected", "batchmatmul", "transposeconv"),
        *("conv", "gemm", "matmul", "convtranspose", "convinteger", "matmulinteger"),
        *("linear", "fusedconv", "fusedgemm", "fusedmatmul", "matmulnbits"),
    ),
    "mean": (
        *("mean", "averagepool2d", "averagepool", "globalaveragepool", "reducemean"),
        *("adaptiveavgpool2d", "avgpool2d"),
    ),
    "max": ("maxpool2d", "maxpool", "globalmaxpool", "reducemax"),
    "concat": ("concatenation", "concat", "cat"),
    ADD: ("add", "iadd", "sum"),
    "mul": ("mul", "imul"),
    "sigmoid": ("logistic", "sigmoid"),
    "hardswish": ("hardswish", "hardsigmoidmul"),
    "resize": ("resizebilinear", "resizenearestneighbor", "resize", "upsample", "interpolate"),
    PAD: ("pad", "padv2", "mirrorpad"),
}
_FAMILY_OF = {kind: family for family, kinds in _FAMILIES.items() for kind in kinds}


def family_of(kind: str) -> str:
    """ "product" for "DEPTHWISE_CONV_2D", "Conv" and "QLinearConv"."""
    plain = kind.replace("_", "").lower().removeprefix("qlinear")
    if plain == "qgemm":
        plain = "gemm"
    return _FAMILY_OF.get(plain, plain)
