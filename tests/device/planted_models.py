"""Small .tflite files that XNNPACK takes whole, or in several partitions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mnv4_deploy.profiles.machine.tflite_models import TfliteGraph


def write_chain(path: Path, kinds: str, *, dynamic: bool = False, name: str = "in, put") -> Path:
    """A chain of element-wise operators on 64 floats, named by their first letters.

    A, M and S are ADD, MUL and SUB, which XNNPACK takes; C is CUMSUM, which it does not.
    ``dynamic`` leaves the first dimension of the input open.
    """
    from ai_edge_litert import schema_py_generated as schema

    graph = TfliteGraph(schema)
    first = graph.tensor(name, (1, 64), "float32")
    if dynamic:
        graph._graph.tensors[first].shapeSignature = [-1, 64]
    axis = graph.tensor("axis", (), "int32", data=np.array(1, np.int32))
    last = first
    for step, kind in enumerate(kinds):
        result = graph.tensor(f"value, {step}", (1, 64), "float32")
        if kind == "C":
            graph.op("CUMSUM", (last, axis), (result,), "CumsumOptions")
        else:
            operator = {"A": "ADD", "M": "MUL", "S": "SUB"}[kind]
            graph.op(operator, (last, first), (result,), f"{operator.capitalize()}Options")
        last = result
    for code in graph._codes:
        code.version, code.deprecatedBuiltinCode = 1, min(code.builtinCode, 127)
    return graph.write(path, (first,), (last,))
