"""Which node of an optimised graph does the work of each node of the graph before.

Works on plain node lists, so that it serves both steps of onnxruntime: the file against the
optimised graph that keeps tensor names, and that one against what really runs.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

# What onnxruntime appends to the names of nodes that it replaces.
_SUFFIX = re.compile(r"(_bn_nchwc|_nchwc|_token_\d+|/\w*Fusion\w*/?|_quant|_q)$")
# Of two places that fit equally, these operators belong to what is before them.
_FOLLOWERS = frozenset(
    {
        *("Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "Tanh"),
        *("Add", "Sum", "BatchNormalization", "QuantizeLinear"),
    }
)
# Operators that only move values: onnxruntime quantizes before them what is quantized behind.
_MOVERS = frozenset(
    {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "MaxPool", "Slice", "Gather"}
)
_LAYOUT = ("Transpose", "ReorderInput", "ReorderOutput")
# What a node can be replaced by at its place.
_REPLACED_BY = {"Transpose": _LAYOUT}
# A node whose value is known without running the model: onnxruntime computes it beforehand.
_KNOWN_BEFOREHAND = frozenset({"Constant", "Shape", "Size"})


@dataclass(frozen=True)
class Node:
    """A node of an ONNX graph: inputs and outputs are tensor names, without the empty ones."""

    op_type: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Nodes:
    """A graph as :func:`absorbed` needs it; ``constants`` are the names of initializers."""

    nodes: tuple[Node, ...]
    constants: frozenset[str]

    def producers(self) -> dict[str, int]:
        return {name: i for i, node in enumerate(self.nodes) for name in node.outputs}

    def readers(self) -> dict[str, list[int]]:
        found: defaultdict[str, list[int]] = defaultdict(list)
        for i, node in enumerate(self.nodes):
            for name in dict.fromkeys(node.inputs):
                found[name].append(i)
        return found


def base_name(name: str) -> str:
    """``name`` without what onnxruntime appended."""
    while (shorter := _SUFFIX.sub("", name)) != name and shorter:
        name = shorter
    return name


def constant_nodes(graph: Nodes) -> frozenset[int]:
    """Nodes whose outputs depend on no input of the model."""
    known = set(graph.constants)
    found = set()
    for i, node in enumerate(graph.nodes):
        if node.op_type in _KNOWN_BEFOREHAND or (node.inputs and known.issuperset(node.inputs)):
            found.add(i)
            known.update(node.outputs)
    return frozenset(found)


def absorbed(before: Nodes, after: Nodes) -> dict[int, int]:
    """Index in ``before`` -> index in ``after`` of the node that does its work.

    A node is where its name or its output is. Any other was fused into a neighbour, and the
    edges of ``after`` tell which: all that feeds the node must feed the neighbour, all that
    reads it must read the neighbour; and where the node's input is still computed, it was not
    fused into what computes it. Nodes computed beforehand are missing from the result, but for
    those that unpack weights, which are with their reader.
    """
    return _Absorption(before, after).resolve()


class _Absorption:
    def __init__(self, before: Nodes, after: Nodes) -> None:
        self.before, self.after = before, after
        self.producers, self.readers = before.producers(), before.readers()
        self.written = after.producers()
        self.constant = constant_nodes(before)
        self.found = self._anchors()
        self._move_quantization()
        self.edges = self._edges()

    def resolve(self) -> dict[int, int]:
        above, below = self._reached(up=True), self._reached(up=False)
        count = len(self.before.nodes)
        self._adopt_orphans(above, below)
        for i in range(count):
            if i not in self.found and i not in self.constant:
                chosen = self._neighbour(i, above[i], below[i])
                if chosen is not None:
                    self.found[i] = chosen
        for i in reversed(range(count)):  # readers come later: they are resolved
            if i in self.constant and self.before.nodes[i].op_type == "DequantizeLinear":
                reading = self._reading(i)
                if i not in self.found and reading and reading[0] in self.found:
                    self.found[i] = self.found[reading[0]]
        return self.found

    def _anchors(self) -> dict[int, int]:
        """The nodes whose name or output is still there."""
        exact = _unique((node.name, node.op_type) for node in self.after.nodes)
        loose = _unique((base_name(node.name),) for node in self.after.nodes)
        found = {}
        for i, node in enumerate(self.before.nodes):
            places = [
                exact.get((node.name, node.op_type)) if node.name else None,
                loose.get((base_name(node.name),)) if node.name else None,
                # The NCHWc form of a node is named after what it wrote; what it wrote may now
                # come out of a change of layout behind it.
                *(loose.get((name,)) for name in node.outputs),
                *(self._writer(name, node.op_type) for name in node.outputs),
            ]
            place = next((p for p in places if p is not None), None)
            if place is not None:
                found[i] = place
        return found

    def _writer(self, tensor: str, kind: str) -> int | None:
        """What writes ``tensor``, unless it only brings the result into the layout asked for."""
        place = self.written.get(tensor)
        if place is None or kind == "Transpose":
            return place
        return None if self.after.nodes[place].op_type in _LAYOUT else place

    def _move_quantization(self) -> None:
        """Find the QuantizeLinear nodes that onnxruntime moved to before a reshape or the like.

        What such a node wrote is now written by the node that moves the values.
        """
        taken = set(self.found.values())
        readers = self.after.readers()
        for place, node in enumerate(self.after.nodes):
            if node.op_type != "QuantizeLinear" or place in taken:
                continue
            tensors = list(node.outputs)
            for name in tensors:  # grows while values are only moved
                origin = self.producers.get(name)
                if origin is not None and self.before.nodes[origin].op_type == "QuantizeLinear":
                    self.found[origin] = place
                    break
                movers = (self.after.nodes[r] for r in readers.get(name, []))
                tensors += [t for m in movers if m.op_type in _MOVERS for t in m.outputs]

    def _edges(self) -> set[tuple[int, int]]:
        """(from, to) in ``after``, through nodes that stand for none of ``before``."""
        taken = set(self.found.values())
        sources: list[set[int]] = []
        edges = set()
        for i, node in enumerate(self.after.nodes):
            direct = {self.written[name] for name in node.inputs if name in self.written}
            feeding = {k for s in direct if s < i for k in ({s} if s in taken else sources[s])}
            sources.append(feeding)
            edges |= {(k, i) for k in feeding} | {(s, i) for s in direct}
        return edges

    def _reading(self, i: int) -> list[int]:
        return [r for name in self.before.nodes[i].outputs for r in self.readers.get(name, [])]

    def _feeding(self, i: int) -> list[int]:
        names = self.before.nodes[i].inputs
        return [self.producers[name] for name in names if name in self.producers]

    def _reached(self, *, up: bool) -> dict[int, dict[int, None]]:
        """For each node the places nearest to it, towards the inputs or the outputs."""
        count = len(self.before.nodes)
        reached: dict[int, dict[int, None]] = {}
        for i in range(count) if up else reversed(range(count)):
            reached[i] = {}
            for k in self._feeding(i) if up else self._reading(i):
                if k in self.found:
                    reached[i][self.found[k]] = None
                elif k in reached and k not in self.constant:
                    reached[i].update(reached[k])
        return reached

    def _adopt_orphans(
        self, above: Mapping[int, Mapping[int, None]], below: Mapping[int, Mapping[int, None]]
    ) -> None:
        """Give renamed nodes that stand between the same neighbours their node of before."""
        taken = set(self.found.values())
        orphans: defaultdict[str, list[int]] = defaultdict(list)
        for place, node in enumerate(self.after.nodes):
            if place not in taken:
                orphans[node.op_type].append(place)
        for i, node in enumerate(self.before.nodes):
            if i in self.found or i in self.constant:
                continue
            kinds = _REPLACED_BY.get(node.op_type, (node.op_type,))
            for place in [p for kind in kinds for p in orphans[kind]]:
                fed = all((k, place) in self.edges for k in above[i])
                if fed and (above[i] or below[i]) and self._feeds(place, below[i]):
                    self.found[i] = place
                    orphans[self.after.nodes[place].op_type].remove(place)
                    break

    def _feeds(self, place: int, below: Iterable[int]) -> bool:
        return all((place, k) in self.edges for k in below)

    def _neighbour(self, i: int, above: Iterable[int], below: Iterable[int]) -> int | None:
        node = self.before.nodes[i]
        direct = [k for k in self._feeding(i) if k in self.found and k not in self.constant]
        # Fused with what is before: what that handed over is no longer written anywhere.
        gone = [self.found[k] for k in direct if not self._kept(i, k)]
        first = [place for place in gone if self._fits(i, place)]
        then = [place for place in below if self._fits(i, place)]
        order = [*first, *then] if node.op_type in _FOLLOWERS else [*then, *first]
        return next(iter([*order, *below, *gone, *above]), None)

    def _kept(self, i: int, source: int) -> bool:
        handed = set(self.before.nodes[source].outputs) & set(self.before.nodes[i].inputs)
        return any(name in self.written for name in handed)

    def _fits(self, i: int, place: int) -> bool:
        """Whether the neighbours that are known are neighbours of ``place`` too."""
        feeding = {self.found[k] for k in self._feeding(i) if k in self.found}
        reading = {self.found[k] for k in self._reading(i) if k in self.found}
        fed = all((k, place) in self.edges for k in feeding - {place})
        return fed and self._feeds(place, reading - {place})


def _unique(keys: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], int]:
    """The position of each key that is there once."""
    listed: Sequence[tuple[str, ...]] = list(keys)
    counts = Counter(listed)
    return {key: i for i, key in enumerate(listed) if counts[key] == 1 and all(key)}
