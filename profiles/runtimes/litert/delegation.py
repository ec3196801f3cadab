"""Which operators of a .tflite file its runtime hands to XNNPACK, without running them.

The interpreter applies its delegate when it allocates the tensors. Afterwards it lists the
operators of the file and a DELEGATE for each part that a delegate took (XNNPACK's, or that of
YNNPACK in builds that have it: both go by that name), with the tensors that go in and out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnv4_deploy.profiles.graph.tflite.primary import with_first
from mnv4_deploy.profiles.records.graph import ModelGraph, Operator
from mnv4_deploy.profiles.runtimes.errors import translated
from mnv4_deploy.profiles.runtimes.litert.interpreter import (
    allocate,
    installed_runtime,
    open_interpreter,
)
from mnv4_deploy.profiles.runtimes.native_log import captured_stderr

_DELEGATE = "DELEGATE"


@dataclass(frozen=True)
class Delegation:
    """What the runtime did with a graph: partitions, and ops it left to built-in kernels."""

    partitions: int
    builtin: frozenset[int]


@dataclass(frozen=True)
class _Part:
    """The tensors that enter and leave what a delegate took."""

    inputs: frozenset[int]
    outputs: frozenset[int]


def ask_delegation(
    path: Path, graph: ModelGraph, shapes: Mapping[int, Sequence[int]]
) -> Delegation:
    """What the installed interpreter's delegate takes of ``graph``, which was read from ``path``.

    ``shapes`` are new ones of inputs, by tensor. Raises ModelFileError with the runtime's reason
    for a file that it does not accept, MemoryError where memory runs out.
    """
    model = with_first(path, graph.subgraph)
    parts = _parts(path, model, shapes, keep_tensors=False)
    if not parts:
        return Delegation(0, frozenset(op.index for op in graph.ops))
    # Where every tensor must stay readable, the delegate takes each operator alone.
    single = _parts(path, model, shapes, keep_tensors=True)
    taken = _inside(graph, parts) | {op.index for op in graph.ops if _alone(op) in single}
    return Delegation(len(parts), frozenset(op.index for op in graph.ops) - taken)


def _alone(op: Operator) -> _Part:
    return _Part(frozenset(t for t in op.inputs if t >= 0), frozenset(op.outputs))


def _parts(
    path: Path, model: str | bytes, shapes: Mapping[int, Sequence[int]], *, keep_tensors: bool
) -> list[_Part]:
    with captured_stderr(), translated(installed_runtime().name, "prepare", path):
        interpreter = open_interpreter(model, keep_tensors=keep_tensors)
        allocate(interpreter, shapes)
        nodes: list[dict[str, Any]] = interpreter._get_ops_details()
    return [
        _Part(
            frozenset(int(t) for t in node["inputs"] if t >= 0),
            frozenset(int(t) for t in node["outputs"]),
        )
        for node in nodes
        if node["op_name"] == _DELEGATE
    ]


def _inside(graph: ModelGraph, parts: Sequence[_Part]) -> set[int]:
    """The operators between what enters a part and what leaves it."""
    maker = {t: op for op in graph.ops for t in op.outputs}
    found: set[int] = set()
    for part in parts:
        asked = list(part.outputs - part.inputs)
        while asked:
            op = maker.get(asked.pop())
            if op is not None and op.index not in found:
                found.add(op.index)
                asked += [t for t in op.inputs if t >= 0 and t not in part.inputs]
    return found
