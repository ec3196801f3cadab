"""Files that do nothing but move memory, for measuring bandwidths."""

from __future__ import annotations

from pathlib import Path

from mnv4_deploy.profiles.machine.tflite_models import TfliteGraph

FLOAT_BYTES = 4
# An addition reads two arrays and writes one.
ARRAYS = 3


def write_additions(path: Path, length: int, floats: int) -> Path:
    """``length`` additions of ``floats`` floats, each of the last result and the input.

    Two or three arrays are alive at a time, for results take turns in places that are free. Needs
    LiteRT's schema.
    """
    from ai_edge_litert import schema_py_generated as schema

    graph = TfliteGraph(schema)
    first = graph.tensor("x", (1, floats), "float32")
    last = first
    for step in range(length):
        result = graph.tensor(f"y{step}", (1, floats), "float32")
        graph.op("ADD", (last, first), (result,), "AddOptions")
        last = result
    return graph.write(path, (first,), (last,))
