"""The layers of a graph: operators that compute, each with what belongs to it alone."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from mnv4_deploy.layers.families import (
    ADD,
    CONVERSIONS,
    DEQUANTIZE,
    FUSED,
    INTEGER_PRODUCTS,
    MOVES,
    PAD,
    PRODUCT,
    family_of,
)
from mnv4_deploy.layers.layer import NetworkLayer
from mnv4_deploy.layers.quantizations import quantizations
from mnv4_deploy.profiles.records.graph import ModelGraph, Operator

_FLOATS = frozenset({"float16", "float32", "float64", "bfloat16"})


class _Graph:
    def __init__(self, graph: ModelGraph) -> None:
        self.graph = graph
        self.quantization = quantizations(graph)
        self.maker = {t: op for op in graph.ops for t in op.outputs}
        self.readers: defaultdict[int, list[Operator]] = defaultdict(list)
        self.constant = graph.constants()
        self.dynamic = {
            op.outputs[0] for op in graph.ops if op.kind == "DynamicQuantizeLinear"
        }  # codes whose scale is found when they are
        for op in graph.ops:
            for t in dict.fromkeys(op.inputs):
                self.readers[t].append(op)

    def is_data(self, tensor: int) -> bool:
        """Whether a tensor holds values that depend on the image, not shapes or weights."""
        if tensor < 0 or tensor in self.constant:
            return False
        known = tensor in self.quantization or tensor in self.dynamic
        return known or self.graph.tensors[tensor].dtype in _FLOATS

    def real_sums(self, op: Operator) -> tuple[int, list[Operator]]:
        """What a product of integers is as real numbers, and the operators that make it that.

        Of a Cast, the Mul by both scales (their own Mul too) and the Add of a bias, as far as
        they are there. Of other operators the result itself.
        """
        tensor = op.outputs[0] if op.outputs else -1
        found: list[Operator] = []
        for kind in ("Cast", "Mul", "Add") if op.kind in INTEGER_PRODUCTS else ():
            readers = self.readers[tensor]
            if len(readers) != 1 or readers[0].kind != kind or tensor in self.graph.outputs:
                break
            (reader,) = readers
            others = [t for t in reader.inputs if t != tensor]
            if kind == "Add" and not self.constant.issuperset(others):
                break
            found += [self.maker[t] for t in others if t in self.maker and kind == "Mul"]
            found.append(reader)
            tensor = reader.outputs[0]
        return tensor, found

    def end_of(self, tensor: int) -> int:
        """The tensor after the activation and the conversions that only serve ``tensor``."""
        while tensor not in self.graph.outputs and len(self.readers[tensor]) == 1:
            (reader,) = self.readers[tensor]
            own = reader.kind in CONVERSIONS or reader.kind in FUSED
            if not own or reader.inputs[0] != tensor or not self.is_data(reader.outputs[0]):
                break
            tensor = reader.outputs[0]
        maker = self.maker[tensor]
        while maker.kind in DEQUANTIZE and maker.inputs[0] in self.quantization:
            tensor = maker.inputs[0]  # the same values, with their range
            maker = self.maker[tensor]
        return tensor


def find_layers(graph: ModelGraph, modules: Sequence[str]) -> tuple[NetworkLayer, ...]:
    """Layers in running order. ``modules`` are the paths of the operators' modules."""
    known = _Graph(graph)
    ends: dict[int, int] = {}
    fused = {own.index for op in graph.ops for own in known.real_sums(op)[1]}
    for op in graph.ops:
        if op.index in fused or op.kind in MOVES or not op.outputs:
            continue
        start, _ = known.real_sums(op)
        if not known.is_data(start):
            continue
        end = ends[op.index] = known.end_of(start)
        fused |= _between(known, start, end)
    outputs = {*ends.values(), *graph.inputs}
    layers = [
        NetworkLayer(
            op=index,
            kind=graph.ops[index].kind,
            family=family_of(graph.ops[index].kind),
            module=modules[index],
            output=end,
            name=graph.tensors[end].name,
            sources=_sources(known, graph.ops[index], outputs),
            quantization=known.quantization.get(end),
        )
        for index, end in ends.items()
    ]
    reads = Counter(t for layer in layers for t in layer.sources)
    summed = {a.sources[0] for a in layers if a.family == ADD and len(a.sources) == 1}
    return tuple(dataclasses.replace(a, mergeable=_mergeable(a, reads, summed)) for a in layers)


def _mergeable(layer: NetworkLayer, reads: Mapping[int, int], summed: set[int]) -> bool:
    if layer.family == PAD:
        return True
    return layer.family == PRODUCT and layer.output in summed and reads[layer.output] == 1


def _between(known: _Graph, start: int, end: int) -> set[int]:
    """The operators from the tensor ``start`` to the tensor ``end``."""
    found = set()
    while end != start:
        maker = known.maker[end]
        found.add(maker.index)
        end = maker.inputs[0]
    return found


def _sources(known: _Graph, op: Operator, outputs: set[int]) -> tuple[int, ...]:
    found: dict[int, None] = {}
    seen: set[int] = set()
    waiting = [t for t in reversed(op.inputs) if known.is_data(t)]
    while waiting:
        tensor = waiting.pop()
        if tensor in seen:
            continue
        seen.add(tensor)
        if tensor in outputs:
            found[tensor] = None
        elif tensor in known.maker:
            maker = known.maker[tensor]
            waiting += [t for t in reversed(maker.inputs) if known.is_data(t)]
    return tuple(found)
