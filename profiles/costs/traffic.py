"""Which inputs of an operator are data, and how much of them it reads.

Shapes, axes, pads, limits, scales and zero points are arguments: they are no weights and move
nothing worth counting. Weights, biases, tables and constant operands are data.
"""

from __future__ import annotations

from mnv4_deploy.profiles.costs.work import HOLDERS, kinds
from mnv4_deploy.profiles.records.graph import ModelGraph, Operator

# The output is the input's memory under another shape.
VIEWS = frozenset(
    kinds("""RESHAPE SQUEEZE EXPAND_DIMS
    Reshape Flatten Squeeze Unsqueeze Identity Dropout""")
)
# Integer types in and out of an operator that onnxruntime may run in integers.
CONVERSIONS = frozenset(("QuantizeLinear", "DequantizeLinear"))
# Read only what they write, as an embedding reads the rows it needs.
_TAKE_A_PART = frozenset(
    kinds("""SLICE STRIDED_SLICE GATHER GATHER_ND EMBEDDING_LOOKUP SPLIT SPLIT_V UNPACK
    Slice Gather GatherND GatherElements Split""")
)
_WHOLE_AT = {"EMBEDDING_LOOKUP": 1, "SPLIT": 1}  # else the first input

_REST = tuple(range(1, 16))
_QUANTIZED_PAIR = (1, 2, 4, 5, 6, 7)  # x, scale, zero, y, scale, zero, scale out, zero out
_ARGUMENTS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("SHAPE", "RANK", "ZEROS_LIKE", "FILL", "RANGE", "ONE_HOT"), (0, *_REST)),
    **dict.fromkeys(("Shape", "Size", "ConstantOfShape", "Range", "EyeLike"), (0, *_REST)),
    **dict.fromkeys(
        kinds("""RESHAPE EXPAND_DIMS TRANSPOSE MEAN SUM REDUCE_MAX REDUCE_MIN REDUCE_PROD
        REDUCE_ANY REDUCE_ALL PAD PADV2 MIRROR_PAD SLICE STRIDED_SLICE RESIZE_BILINEAR
        RESIZE_NEAREST_NEIGHBOR SPLIT_V TILE BROADCAST_TO ARG_MAX ARG_MIN TOPK_V2 CUMSUM
        SPACE_TO_BATCH_ND BATCH_TO_SPACE_ND REVERSE_V2
        Reshape Squeeze Unsqueeze Expand Tile Slice Pad Resize Upsample Clip TopK Split CumSum
        OneHot Dropout ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceSumSquare
        ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp Trilu CastLike
        QuantizeLinear DequantizeLinear QLinearGlobalAveragePool QLinearAveragePool
        QLinearSigmoid QLinearLeakyRelu QLinearSoftmax QLinearReduceMean"""),
        _REST,
    ),
    "SPLIT": (0,),
    "TRANSPOSE_CONV": (0,),
    "DYNAMIC_UPDATE_SLICE": (2,),
    **dict.fromkeys(("QLinearConv", "QLinearMatMul", "QLinearAdd", "QLinearMul"), _QUANTIZED_PAIR),
    "QGemm": (1, 2, 4, 5, 7, 8),
    "QLinearConcat": tuple(i for i in range(512) if i % 3 != 2),
    "QLinearWhere": (2, 3, 5, 6, 7, 8),
    **dict.fromkeys(("MatMulInteger", "ConvInteger"), (2, 3)),
    "MatMulIntegerToFloat": (2, 3, 4, 5),
    "NonMaxSuppression": (2, 3, 4),
    "RFFT2D": (1,),
    "DynamicQuantizeLSTM": (4, 8, 9, 10, 11),
    "DynamicQuantizeMatMul": (2, 3),
}


def data_inputs(op: Operator) -> tuple[int, ...]:
    """The tensors that ``op`` reads as data, by index."""
    if op.kind in HOLDERS:
        return ()
    arguments = _ARGUMENTS.get(op.kind, ())
    return tuple(t for at, t in enumerate(op.inputs) if t >= 0 and at not in arguments)


def read_bytes(graph: ModelGraph, op: Operator, tensor: int) -> int:
    """Bytes of input ``tensor`` that ``op`` reads."""
    size = graph.tensors[tensor].size_bytes
    whole_at = _WHOLE_AT.get(op.kind, 0)
    if op.kind in _TAKE_A_PART and op.inputs[whole_at] == tensor:
        return min(size, sum(t.size_bytes for t in graph.targets(op)))
    return size
