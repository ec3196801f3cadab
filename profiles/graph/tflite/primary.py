"""A .tflite file with another of its graphs as the first, which interpreters run and describe.

TFLite's interpreters tell of the first graph alone: the graphs behind other signatures, and the
bodies of WHILE, IF and CALL_ONCE, are first in a copy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def with_first(path: Path, subgraph: int) -> str | bytes:
    """What to open for graph number ``subgraph`` of ``path``: the path, or a copy's content.

    In the copy that graph and the first have changed places, and every reference to them with
    them: signatures, and operators that run graphs.
    """
    if subgraph == 0:
        return str(path)
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(path.read_bytes()))
    graphs = model.subgraphs
    graphs[0], graphs[subgraph] = graphs[subgraph], graphs[0]
    moved = {0: subgraph, subgraph: 0}
    for signature in model.signatureDefs or ():
        signature.subgraphIndex = moved.get(signature.subgraphIndex, signature.subgraphIndex)
    for graph in graphs:
        for op in graph.operators or ():
            for options in (op.builtinOptions, op.builtinOptions2):
                _renumber(options, moved)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _renumber(options: Any, moved: dict[int, int]) -> None:
    for name, value in vars(options).items() if options is not None else ():
        if name == "subgraph" or name.endswith("SubgraphIndex"):
            setattr(options, name, moved.get(value, value))
        elif name.endswith("SubgraphIndices") and value is not None:
            setattr(options, name, [moved.get(int(index), int(index)) for index in value])
