"""What onnxruntime really runs for an .onnx file, and what of the file each node does.

Branches and bodies are traced as the main graph is, each against what onnxruntime made of it. An
If whose condition it knows beforehand is gone, and the nodes of one branch are in its place.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mnv4_deploy.profiles.graph.onnx.bodies import (
    Body,
    bodies_of,
    inner_graphs,
    names_in_place,
)
from mnv4_deploy.profiles.graph.onnx.model import load_onnx
from mnv4_deploy.profiles.inspection.onnx_operators import compute_of_node, value_types
from mnv4_deploy.profiles.join.absorb import Node, Nodes, absorbed, constant_nodes
from mnv4_deploy.profiles.runtimes.ort.run import optimized_graph


@dataclass(frozen=True)
class ExecutedNode:
    """A node that really runs, and the file's nodes whose work it does (by index).

    ``neighbour`` is the position in the trace of a node that it feeds or follows, for nodes that
    have none of the file; ``holder`` that of the node in whose branch or body it is.
    """

    name: str
    op_type: str
    compute: str
    ops: tuple[int, ...]
    neighbour: int | None = None
    holder: int | None = None


@dataclass(frozen=True)
class OrtTrace:
    """The executed nodes in the order of the optimised graph, those of each branch and body
    behind those of the graph that it is in."""

    nodes: tuple[ExecutedNode, ...]


def trace_ort(
    path: str | Path, *, ran: Collection[int] | None = None, arm: bool = False
) -> OrtTrace:
    """What onnxruntime runs for ``path`` on this machine, and what of the file each node does.

    ``ran`` are the file's nodes that run in an inference, None for all: they tell which branch is
    left of an If that onnxruntime decides beforehand. ``arm``: what it runs on an Arm processor
    instead, as far as this machine can tell.

    Every node of the file that is not computed beforehand is in exactly one executed node; a
    DequantizeLinear that several read may be in each of theirs. Nodes are told apart by name:
    give the file that :func:`~mnv4_deploy.profiles.graph.onnx.renamed.renamed_copy` returns.

    Raises ModelFileError where onnxruntime or onnx does not accept the file.
    """
    import onnx

    tracer = _Tracer(onnx, bodies_of(load_onnx(onnx, Path(path)).graph), ran)
    executed = optimized_graph(path, arm=arm).graph
    between = optimized_graph(path, traceable=True).graph
    return OrtTrace(tuple(tracer.trace(_Step(0, between, executed))))


@dataclass(frozen=True)
class _Step:
    """The body at ``place`` of a file, what became of it in the graph that keeps tensor names
    (None: unknown) and in the one that runs, inside its node ``holder``. ``types`` and
    ``constants`` are those outside of it, by name."""

    place: int | None
    between: Any | None
    executed: Any
    holder: int | None = None
    types: Mapping[str, str] | None = None
    constants: frozenset[str] = frozenset()


class _Tracer:
    def __init__(self, onnx: Any, bodies: Sequence[Body], ran: Collection[int] | None) -> None:
        self._onnx, self._bodies, self._ran = onnx, bodies, ran
        self._inside: defaultdict[tuple[int, str], list[int]] = defaultdict(list)
        for place, body in enumerate(bodies):
            self._inside[body.holder, body.attribute].append(place)

    def trace(self, start: _Step) -> list[ExecutedNode]:
        found: list[ExecutedNode] = []
        steps = [start]
        for step in steps:  # grows
            types = {**(step.types or {}), **value_types(self._onnx, step.executed, step.types)}
            first = len(found)
            members, neighbours, constants = self._members(step)
            for at, node in enumerate(step.executed.node):
                neighbour = neighbours.get(at)
                found.append(
                    ExecutedNode(
                        name=node.name,
                        op_type=node.op_type,
                        compute=compute_of_node(node, types),
                        ops=tuple(sorted(members.get(at, ()))),
                        neighbour=None if neighbour is None else first + neighbour,
                        holder=step.holder,
                    )
                )
                inner = self._inner(step, node, members.get(at, ()))
                outside = replace(step, holder=first + at, types=types, constants=constants)
                steps += [
                    replace(outside, place=place, between=between, executed=executed)
                    for place, between, executed in inner
                ]
        return found

    def _inner(
        self, step: _Step, node: Any, members: Collection[int]
    ) -> Iterator[tuple[int | None, Any | None, Any]]:
        """The bodies of the executed ``node``: in the file, halfway, and as they run."""
        halves = {n.name: n for n in (step.between.node if step.between is not None else ())}
        half = dict(inner_graphs(halves[node.name])) if node.name in halves else {}
        for attribute, graph in inner_graphs(node):
            places = [p for number in members for p in self._inside.get((number, attribute), ())]
            yield places[0] if places else None, half.get(attribute), graph

    def _members(
        self, step: _Step
    ) -> tuple[Mapping[int, set[int]], Mapping[int, int], frozenset[str]]:
        """Of each executed node the file's nodes and a neighbour, by position; and what is
        constant in the body and around it."""
        members: defaultdict[int, set[int]] = defaultdict(set)
        if step.place is None:
            return members, {}, step.constants
        ran = _nodes(step.executed, step.constants)
        left = {node.name for node in step.executed.node if node.op_type == "If"}
        numbers, file = self._file_nodes(step.place, left, step.constants)
        places = absorbed(file, ran)
        if step.between is not None:
            between = _nodes(step.between, step.constants)
            to_between, to_ran = absorbed(file, between), absorbed(between, ran)
            # What the first step lost (another fusion without the layout), the direct way finds.
            places |= {i: to_ran[k] for i, k in to_between.items() if k in to_ran}
        for i, place in places.items():
            members[place].add(i)
        _share_unpacking(file, places, members)
        known = {name for i in constant_nodes(file) for name in file.nodes[i].outputs}
        numbered = {at: {numbers[i] for i in own} for at, own in members.items()}
        return numbered, _neighbours(ran, members), file.constants | known

    def _file_nodes(
        self, place: int, left: Collection[str], outside: frozenset[str]
    ) -> tuple[list[int], Nodes]:
        """The nodes of a body of the file, with those of one branch in the place of each If that
        is not among ``left``; their numbers beside them."""
        body = self._bodies[place]
        numbers: list[int] = []
        nodes: list[Node] = []
        constants = outside | {i.name for i in body.graph.initializer}
        for number, node in body.numbered:
            branch = self._branch(number, node) if node.op_type == "If" else None
            if branch is None or node.name in left:
                numbers.append(number)
                nodes.append(_node(node))
                continue
            inner_numbers, inner = self._file_nodes(branch, left, constants)
            names = names_in_place(self._bodies[branch], node)
            numbers += inner_numbers
            nodes += [
                Node(
                    one.op_type,
                    "",  # onnxruntime makes new ones
                    tuple(names.get(name, name) for name in one.inputs),
                    tuple(names.get(name, name) for name in one.outputs),
                )
                for one in inner.nodes
            ]
            constants |= {names.get(name, name) for name in inner.constants}
        return numbers, Nodes(tuple(nodes), constants)

    def _branch(self, number: int, node: Any) -> int | None:
        """The body that runs of the If ``node``, the first of those that may."""
        for attribute, _ in inner_graphs(node):
            for place in self._inside.get((number, attribute), ()):
                inside = [number for number, _ in self._bodies[place].numbered]
                if self._ran is None or any(number in self._ran for number in inside):
                    return place
        return None


def _nodes(graph: Any, outside: frozenset[str]) -> Nodes:
    own = {i.name for i in graph.initializer}
    return Nodes(tuple(map(_node, graph.node)), outside | own)


def _node(node: Any) -> Node:
    return Node(
        node.op_type,
        node.name,
        tuple(filter(None, node.input)),
        tuple(filter(None, node.output)),
    )


def _share_unpacking(
    file: Nodes, places: Mapping[int, int], members: Mapping[int, set[int]]
) -> None:
    """Put a DequantizeLinear that did not stay itself with everything that reads it."""
    readers, constant = file.readers(), constant_nodes(file)
    for i, node in enumerate(file.nodes):
        if node.op_type != "DequantizeLinear":
            continue
        reading = {
            places[r]
            for name in node.outputs
            for r in readers.get(name, [])
            if r in places and r not in constant
        }
        if i in places and places[i] in reading:
            for place in reading:
                members[place].add(i)


def _neighbours(ran: Nodes, members: Mapping[int, set[int]]) -> dict[int, int]:
    """For nodes without origin one with it next to them: what reads them, else what feeds them.

    A node that brings results out of a layout belongs to what it follows.
    """
    readers, producers = ran.readers(), ran.producers()
    found: dict[int, int] = {}
    for place, node in enumerate(ran.nodes):
        if members.get(place):
            continue
        after = [r for name in node.outputs for r in readers.get(name, [])]
        ahead = [producers[name] for name in node.inputs if name in producers]
        order = [*ahead, *after] if node.op_type == "ReorderOutput" else [*after, *ahead]
        known = next((p for p in order if members.get(p)), None)
        if known is not None:
            found[place] = known
    return found
