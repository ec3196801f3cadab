"""Which .tflite graphs have tensors whose size is known only once they ran."""

from __future__ import annotations

from mnv4_deploy.profiles.records.graph import ModelGraph, Operator

# Inputs that say how large the output is, by position.
_SIZES = {
    **dict.fromkeys(("RESHAPE", "TILE", "BROADCAST_TO", "PAD", "PADV2", "MIRROR_PAD"), (1,)),
    **dict.fromkeys(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "EXPAND_DIMS"), (1,)),
    **dict.fromkeys(("SUM", "MEAN", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD"), (1,)),
    **dict.fromkeys(("TOPK_V2", "ONE_HOT", "ARG_MAX", "ARG_MIN", "TRANSPOSE"), (1,)),
    **dict.fromkeys(("SLICE", "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND"), (1, 2)),
    **dict.fromkeys(("FILL", "TRANSPOSE_CONV", "CONV_3D_TRANSPOSE"), (0,)),
    "STRIDED_SLICE": (1, 2, 3),
    "RANGE": (0, 1, 2),
    "SCATTER_ND": (2,),
    "SPLIT_V": (1, 2),
    "SPARSE_TO_DENSE": (1,),
}
# What they find decides how much they write; custom operators and other graphs may do anything.
_BY_VALUE = frozenset({"WHERE", "UNIQUE", "HASHTABLE_LOOKUP", "EMBEDDING_LOOKUP_SPARSE"})


def sizes_come_from_data(graph: ModelGraph) -> bool:
    """Whether a tensor of ``graph`` may get its size from values instead of from shapes."""
    stored = graph.constants()
    return any(
        op.custom
        or op.calls
        or op.kind in _BY_VALUE
        or any(tensor not in stored for tensor in _size_inputs(op))
        for op in graph.ops
    )


def _size_inputs(op: Operator) -> list[int]:
    positions = _SIZES.get(op.kind, ())
    return [op.inputs[at] for at in positions if at < len(op.inputs) and op.inputs[at] >= 0]
