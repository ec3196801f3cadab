"""Which intermediate tensors are compared, and which of them a layer reads."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mnv4_deploy.layers.families import PRODUCT, family_of
from mnv4_deploy.layers.layer import Quantization
from mnv4_deploy.layers.quantizations import INTEGERS, quantizations
from mnv4_deploy.profiles.join.modules import module_of_ops
from mnv4_deploy.profiles.records.files import FileFacts
from mnv4_deploy.profiles.records.graph import ModelGraph, Operator

# Types that come back from a device as they are.
_COMPARED = INTEGERS | {"bool", "int32", "int64", "float16", "float32", "float64"}


@dataclass(frozen=True)
class Watched:
    """A layer with one tensor that it leaves.

    ``op`` and ``tensor`` index the graph. ``sources`` are the tensors it reads whose values
    depend on the inputs; each is watched itself or an input of the file.
    """

    op: int
    module: str
    kind: str
    compute: str
    tensor: int
    name: str
    shape: tuple[int, ...]
    sources: tuple[int, ...]
    quantization: Quantization | None = None


@dataclass(frozen=True)
class LayersPlan:
    """How the watched tensors are had.

    ``path`` is opened with ``tensors``; a run then gives ``order``, indices of the graph's
    tensors: those of ``outputs`` first, then the watched ones.
    """

    path: Path
    tensors: tuple[int, ...] | None
    order: tuple[int, ...]
    outputs: int
    inputs: tuple[int, ...]
    layers: tuple[Watched, ...]


def tflite_plan(path: Path, graph: ModelGraph, facts: FileFacts) -> LayersPlan:
    """Every operator's results that depend on the inputs, of the file ``path`` as it is.

    An operator that XNNPACK runs as a part of another has its tensor all the same: with all
    tensors preserved each runs alone.
    """
    quantization = quantizations(graph)
    constant = graph.constants()
    modules = module_of_ops(graph)
    layers = tuple(
        Watched(
            op=op.index,
            module=modules[op.index],
            kind=op.kind,
            compute=facts.operators[op.index].compute if op.index < len(facts.operators) else "",
            tensor=tensor,
            name=graph.tensors[tensor].name,
            shape=graph.tensors[tensor].shape,
            sources=tuple(dict.fromkeys(t for t in op.inputs if t >= 0 and t not in constant)),
            quantization=quantization.get(tensor),
        )
        for op, tensor in _results(graph, constant)
    )
    kept = dict.fromkeys(layer.tensor for layer in layers)
    order = (*graph.outputs, *(tensor for tensor in kept if tensor not in graph.outputs))
    return LayersPlan(path, order, order, len(graph.outputs), graph.inputs, layers)


def _results(graph: ModelGraph, constant: Collection[int]) -> Iterator[tuple[Operator, int]]:
    for op in graph.ops:
        for tensor in op.outputs:
            if tensor in constant or tensor < 0:
                continue
            if graph.tensors[tensor].dtype in _COMPARED:
                yield op, tensor


class Equality:
    """Which tensors of one inference agree on both sides, also those that neither side has.

    A tensor that a runtime fused away is what its maker makes of its sources: it agrees where
    those do, so that the operator behind it answers for both.
    """

    def __init__(self, inputs: Sequence[int], sources: Mapping[int, Sequence[int]]) -> None:
        self._equal = dict.fromkeys(inputs, True)
        self._sources = sources

    def inputs_equal(self, layer: Watched) -> bool:
        return all(self._agrees(tensor) for tensor in layer.sources)

    def set(self, tensor: int, *, equal: bool) -> None:
        self._equal[tensor] = equal

    def _agrees(self, tensor: int) -> bool:
        if tensor not in self._equal:
            # Known at once for whatever runs later, and never asked twice.
            self._equal[tensor] = all(map(self._agrees, self._sources.get(tensor, ())))
        return self._equal[tensor]


def computes_in_integers(graph: ModelGraph, facts: FileFacts) -> bool:
    """Whether products of a file, or all else where it has none, are sums of integers.

    Those are the same on every machine, in whatever order they are added. Not so where codes
    are made of floats at run time ("dynamic range"): scales and results are floats there.
    """
    products = [op for op in graph.ops if family_of(op.kind) == PRODUCT]
    return any(_in_integers(op, graph, facts) for op in products or graph.ops)


def _in_integers(op: Operator, graph: ModelGraph, facts: FileFacts) -> bool:
    if op.index >= len(facts.operators) or facts.operators[op.index].compute not in INTEGERS:
        return False
    if graph.format == "onnx":
        return not op.kind.endswith("Integer") and not op.kind.startswith("DynamicQ")
    return bool(op.inputs) and op.inputs[0] >= 0 and graph.tensors[op.inputs[0]].dtype in INTEGERS
