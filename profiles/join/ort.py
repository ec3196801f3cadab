"""The executed nodes of onnxruntime joined with the nodes of an .onnx file."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mnv4_deploy.profiles.graph.onnx_model import load_onnx
from mnv4_deploy.profiles.inspection.inspect_onnx import compute_of_node, value_types
from mnv4_deploy.profiles.join.absorb import Node, Nodes, absorbed, base_name, constant_nodes
from mnv4_deploy.profiles.join.modules import module_of_ops
from mnv4_deploy.profiles.records.graph import ModelGraph
from mnv4_deploy.profiles.records.profile import Layer
from mnv4_deploy.profiles.records.timing import OpTiming
from mnv4_deploy.profiles.runtimes.run_ort import optimized_graph

# Kinds that only prepare or finish the work of another in the same layer.
_ACCESSORIES = frozenset(
    {
        *("DequantizeLinear", "QuantizeLinear", "Cast", "Identity", "Pad"),
        *("Transpose", "Reshape", "Squeeze", "Unsqueeze"),
    }
)
_WORK = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_CHANNELS_LAST = "Nhwc"


@dataclass(frozen=True)
class ExecutedNode:
    """A node that really runs, and the file's nodes whose work it does (by index).

    ``neighbour`` is the position in the trace of a node that it feeds or follows, for nodes that
    have none of the file.
    """

    name: str
    op_type: str
    compute: str
    ops: tuple[int, ...]
    neighbour: int | None = None


@dataclass(frozen=True)
class OrtTrace:
    """The executed nodes in the order of the optimised graph."""

    nodes: tuple[ExecutedNode, ...]


def trace_ort(path: str | Path, *, arm: bool = False) -> OrtTrace:
    """What onnxruntime runs for ``path`` on this machine, and what of the file each node does.

    ``arm``: what it runs on an Arm processor instead, as far as this machine can tell.

    Every node of the file that is not computed beforehand is in exactly one executed node; a
    DequantizeLinear that several read may be in each of theirs. Nodes are told apart by name:
    give the file that :func:`~mnv4_deploy.profiles.graph.renamed.renamed_copy` returns.

    Raises ModelFileError where onnxruntime or onnx does not accept the file.
    """
    import onnx

    graph = load_onnx(onnx, Path(path)).graph
    executed = optimized_graph(path, arm=arm).graph
    file, ran = _nodes(graph), _nodes(executed)
    between = _nodes(optimized_graph(path, traceable=True).graph)
    to_between, to_ran = absorbed(file, between), absorbed(between, ran)
    places = {i: to_ran[k] for i, k in to_between.items() if k in to_ran}
    # What the first step lost (another fusion without the layout), the direct way may find.
    for i, place in absorbed(file, ran).items():
        places.setdefault(i, place)
    members: defaultdict[int, set[int]] = defaultdict(set)
    for i, place in places.items():
        members[place].add(i)
    _share_unpacking(file, places, members)
    types = value_types(onnx, executed)
    neighbours = _neighbours(ran, members)
    return OrtTrace(
        tuple(
            ExecutedNode(
                name=node.name,
                op_type=node.op_type,
                compute=compute_of_node(node, types),
                ops=tuple(sorted(members[place])),
                neighbour=neighbours.get(place),
            )
            for place, node in enumerate(executed.node)
        )
    )


def _nodes(graph: Any) -> Nodes:
    return Nodes(
        tuple(
            Node(n.op_type, n.name, tuple(filter(None, n.input)), tuple(filter(None, n.output)))
            for n in graph.node
        ),
        frozenset(i.name for i in graph.initializer),
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


def join_ort(graph: ModelGraph, timings: Sequence[OpTiming], trace: OrtTrace) -> tuple[Layer, ...]:
    """The layers of ``graph`` as they ran, in order of execution.

    One layer for each executed node, with the file's nodes that it absorbed; nodes that
    onnxruntime inserted have none. ``trace`` is of the file that was measured. Every timing is
    in exactly one layer; nodes computed beforehand are in none.
    """
    modules = module_of_ops(graph)
    mains = [_main_op(graph, node) for node in trace.nodes]
    by_name = _by_name(trace)
    layers, used = [], set()
    for at, timing in enumerate(timings):
        place = _find(by_name, timing)
        if place is None or place in used:
            layers.append(_unknown(timing, at))
        else:
            used.add(place)
            layers.append(_layer(graph, modules, trace, mains, place, (at,)))
    for place, node in enumerate(trace.nodes):
        if node.ops and place not in used:
            layers.append(_layer(graph, modules, trace, mains, place, ()))
    return tuple(replace(layer, index=at) for at, layer in enumerate(layers))


def _by_name(trace: OrtTrace) -> dict[tuple[str, ...], int]:
    """Positions by (name, operator), and by what :func:`_loosely` makes of them where unique."""
    keys = [_loosely(node.name, node.op_type) for node in trace.nodes]
    counts = Counter(keys)
    found: dict[tuple[str, ...], int] = {k: i for i, k in enumerate(keys) if counts[k] == 1}
    return found | {(node.name, node.op_type): i for i, node in enumerate(trace.nodes)}


def _loosely(name: str, op_type: str) -> tuple[str, ...]:
    """Without what onnxruntime appends to names, and whichever layout the kernel takes."""
    return "", base_name(name), op_type.removeprefix(_CHANNELS_LAST)


def _find(by_name: Mapping[tuple[str, ...], int], timing: OpTiming) -> int | None:
    # The numbers in suffixes may differ from one session to the next.
    loose = by_name.get(_loosely(timing.name, timing.tag))
    return by_name.get((timing.name, timing.tag), loose)


def _unknown(timing: OpTiming, at: int) -> Layer:
    return Layer(timing.tag, timing.name, "", "unknown", "onnxruntime", None, (), (at,))


def _layer(
    graph: ModelGraph,
    modules: Sequence[str],
    trace: OrtTrace,
    mains: Sequence[int | None],
    place: int,
    timings: tuple[int, ...],
) -> Layer:
    node, main = trace.nodes[place], mains[place]
    near = mains[node.neighbour] if main is None and node.neighbour is not None else main
    return Layer(
        op_type=_op_type(graph, node, main),
        name=node.name if main is None else graph.ops[main].name,
        module=modules[near] if near is not None else "",
        compute=node.compute,
        backend="onnxruntime",
        partition=None,
        op_indices=node.ops,
        timing_indices=timings,
    )


def _op_type(graph: ModelGraph, node: ExecutedNode, main: int | None) -> str:
    """The file's word where one operator is at work, the runtime's for a pattern that it fused
    (LayerNormalization, QuickGelu)."""
    if main is None:
        return node.op_type
    kind = graph.ops[main].kind
    working = [i for i in node.ops if graph.ops[i].kind not in _ACCESSORIES]
    known = kind in _WORK or kind in node.op_type or len(working) <= 1
    return kind if known else node.op_type


def _main_op(graph: ModelGraph, node: ExecutedNode) -> int | None:
    """The file node that a layer is named after: what multiplies, else what computes.

    A node that is still itself is its own main one, whatever was fused into it.
    """
    kinds = [(i, graph.ops[i].kind) for i in node.ops]
    same = [i for i, kind in kinds if kind == node.op_type]
    work = [i for i, kind in kinds if kind in _WORK]
    others = [i for i, kind in kinds if kind not in _ACCESSORIES]
    choices = [*work, *same, *others, *(i for i, _ in kinds)]
    return choices[0] if choices else None
