"""The executed nodes of onnxruntime joined with the nodes of an .onnx file."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from mnv4_deploy.profiles.join.absorb import base_name
from mnv4_deploy.profiles.join.modules import module_of_ops
from mnv4_deploy.profiles.join.ort_trace import ExecutedNode, OrtTrace
from mnv4_deploy.profiles.records.graph import ModelGraph
from mnv4_deploy.profiles.records.profile import Layer
from mnv4_deploy.profiles.records.timing import OpTiming

# Kinds that only prepare or finish the work of another in the same layer.
_ACCESSORIES = frozenset(
    {
        *("DequantizeLinear", "QuantizeLinear", "Cast", "Identity", "Pad"),
        *("Transpose", "Reshape", "Squeeze", "Unsqueeze"),
    }
)
_WORK = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_CHANNELS_LAST = "Nhwc"


def join_ort(graph: ModelGraph, timings: Sequence[OpTiming], trace: OrtTrace) -> tuple[Layer, ...]:
    """The layers of ``graph`` as they ran, in order of execution.

    One layer for each executed node, with the file's nodes that it absorbed; nodes that
    onnxruntime inserted have none, nor has what the call takes around them. A node that holds a
    branch or a body also has those of its nodes that have no time of their own, and computes as
    they do. ``trace`` is of the file that was measured. Every timing is in exactly one layer;
    nodes computed beforehand, and those of a branch that did not run, are in none.
    """
    modules = module_of_ops(graph)
    mains = [_main_op(graph, node) for node in trace.nodes]
    places = _places(trace, timings)
    used = {place for place in places if place is not None}
    held: defaultdict[int, list[int]] = defaultdict(list)
    computes: dict[int, str] = {}
    alone = []
    for place, node in enumerate(trace.nodes):
        if place in used or not node.ops:
            continue
        holder = _measured_holder(trace, place, used)
        if holder is not None:
            inside = [i for i in node.ops if graph.ops[i].runs]
            held[holder] += inside
            if inside and (mains[place] in _products(graph, inside) or holder not in computes):
                computes[holder] = node.compute
        elif node.holder is None:
            alone.append(place)
    layers = []
    for at, (timing, found) in enumerate(zip(timings, places, strict=True)):
        if found is None:
            layers.append(_without_node(timing, at))
            continue
        layer = _layer(graph, modules, trace, mains, found, (at,))
        ops = tuple(sorted({*layer.op_indices, *held[found]}))
        compute = computes.get(found, layer.compute)
        layers.append(replace(layer, op_indices=ops, compute=compute, runs=timing.runs))
    layers += [_layer(graph, modules, trace, mains, place, ()) for place in alone]
    return tuple(replace(layer, index=at) for at, layer in enumerate(layers))


def _products(graph: ModelGraph, ops: Collection[int]) -> list[int]:
    return [i for i in ops if graph.ops[i].kind in _WORK]


def _measured_holder(trace: OrtTrace, place: int, used: Collection[int]) -> int | None:
    """The nearest node around the one at ``place`` that has a time."""
    holder = trace.nodes[place].holder
    while holder is not None and holder not in used:
        holder = trace.nodes[holder].holder
    return holder


def _places(trace: OrtTrace, timings: Sequence[OpTiming]) -> list[int | None]:
    """The position in ``trace`` of the node of each timing, None where it is not known."""
    by_name = _by_name(trace)
    found: list[int | None] = []
    for timing in timings:
        place = _find(by_name, timing)
        found.append(None if place in found else place)
    # Nodes without a name are called after their kind, by a count that is in no file.
    for kind in dict.fromkeys(timing.tag for timing in timings):
        missing = [i for i, t in enumerate(timings) if t.tag == kind and found[i] is None]
        nameless = [
            place
            for place, node in enumerate(trace.nodes)
            if node.op_type == kind and not node.name and place not in found
        ]
        if len(missing) == len(nameless):
            for i, place in zip(missing, nameless, strict=True):
                found[i] = place
    return found


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


def _without_node(timing: OpTiming, at: int) -> Layer:
    if timing.backend == "runtime":
        return Layer("runtime", timing.tag, "", "none", "runtime", None, (), (at,))
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
