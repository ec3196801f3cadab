"""The operators of an .onnx file, and what onnxruntime makes of each."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mnv4_deploy.profiles.costs.work import HOLDERS
from mnv4_deploy.profiles.graph.onnx.bodies import Body, inner_graphs, names_in_place
from mnv4_deploy.profiles.graph.onnx.constants import dtype_name
from mnv4_deploy.profiles.ort.float_reasons import float_reasons
from mnv4_deploy.profiles.ort.rules import CONVERSIONS, INTEGER_KERNELS
from mnv4_deploy.profiles.records.files import OperatorFacts

CONTROL = "control"  # of a node that only lets others run
_CONSTANT = "Constant"
_FLOATS = ("float32", "float16", "float64", "bfloat16")
_FIXED_OUTPUT_TYPES = {
    **dict.fromkeys(
        ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or"), "bool"
    ),
    **dict.fromkeys(("Shape", "Size", "ArgMax", "ArgMin", "NonZero"), "int64"),
    **dict.fromkeys(("MatMulInteger", "ConvInteger"), "int32"),
    "MatMulIntegerToFloat": "float32",
}


def operators_of(
    onnx: Any, bodies: Sequence[Body], optimized: Any | None, executed: Any | None
) -> tuple[OperatorFacts, ...]:
    """The operators of ``bodies``, those of the main graph first; constants are none.

    ``optimized`` is the graph that onnxruntime made of the main one with the file's names still in
    it, ``executed`` the one that runs; None where it could not be asked.
    """
    found: list[OperatorFacts] = []
    graphs: dict[int, Any | None] = {0: optimized}  # what became of each body
    types: dict[int, dict[str, str]] = {-1: {}}
    runners: dict[int, Any] = {}
    for place, body in enumerate(bodies):
        if place:
            runner = runners.get(body.holder)
            kept = {} if runner is None else dict(inner_graphs(runner))
            graphs[place] = kept.get(body.attribute)
        own, outside = graphs[place], types[body.outer]
        in_place = {}
        if own is None and optimized is not None and place:
            # Decided beforehand: the nodes of one branch are in the graph around it.
            own = graphs[place] = graphs[body.outer]
            holder = bodies[body.outer].graph.node[body.holder - bodies[body.outer].first]
            in_place = names_in_place(body, holder)
        types[place] = value_types(onnx, own if own is not None else body.graph, outside)
        runs_as = _absorbed_by(body.graph, own, in_place) if own is not None else {}
        runners |= {body.first + index: runner for index, runner in runs_as.items()}
        facts = _operators(body.graph, own, runs_as, types[place])
        if place == 0 and own is not None and executed is not None:
            facts = _explained(onnx, body.graph, facts, own, executed)
        found += (replace(op, index=body.first + op.index) for op in facts)
    return tuple(op for op in found if op.kind != _CONSTANT)


def integer_kernels(graph: Any) -> Counter[str]:
    """How many nodes of each kind that computes in integers ``graph`` has."""
    return Counter(n.op_type for n in graph.node if n.op_type.startswith(INTEGER_KERNELS))


def _operators(
    graph: Any, optimized: Any | None, runs_as: Mapping[int, Any], types: Mapping[str, str]
) -> list[OperatorFacts]:
    facts = []
    for index, node in enumerate(graph.node):
        runner = runs_as.get(index) if optimized is not None else node
        compute = "none" if runner is None else compute_of_node(runner, types)
        runs_kind = node.op_type if runner is None else runner.op_type
        facts.append(
            OperatorFacts(
                index=index,
                kind=node.op_type,
                name=node.output[0] if node.output else node.name,
                compute=compute,
                runs_as=runs_kind if runs_kind != node.op_type else None,
            )
        )
    return facts


def _explained(
    onnx: Any, graph: Any, facts: list[OperatorFacts], optimized: Any, executed: Any
) -> list[OperatorFacts]:
    """``facts`` with what the last steps of onnxruntime left in float, and why."""
    if integer_kernels(executed) != integer_kernels(optimized):
        left = _left_in_float(onnx, executed)
        keys = [(node.name, node.op_type) for node in graph.node]
        facts = [
            replace(op, compute=left[key], runs_as=None) if key in left else op
            for op, key in zip(facts, keys, strict=True)
        ]
    reasons = float_reasons(graph, (op.index for op in facts if op.compute in _FLOATS))
    return [replace(op, float_reason=reasons.get(op.index)) for op in facts]


def _left_in_float(onnx: Any, executed: Any) -> dict[tuple[str, str], str]:
    """``(name, kind)`` of the nodes that run in float, with what they compute in."""
    types = value_types(onnx, executed)
    names = Counter(node.name for node in executed.node)
    computes = {
        (node.name, node.op_type): compute_of_node(node, types)
        for node in executed.node
        if node.name and names[node.name] == 1
    }
    return {key: compute for key, compute in computes.items() if compute in _FLOATS}


def _absorbed_by(graph: Any, optimized: Any, in_place: Mapping[str, str]) -> dict[int, Any]:
    """File node index -> node of the optimised graph that does its work.

    ``in_place``: what values are called there, where that is another name.

    A node that is still there, by name and kind, runs as itself, even where a moved transpose
    took over its output. A node whose output is still computed runs as the node that computes
    it. Otherwise it was fused into what follows it (its activation, the QuantizeLinear behind
    it), so its consumers are followed to the first tensor that is still computed.
    """
    producer = {name: node for node in optimized.node for name in node.output if name}
    consumers: defaultdict[str, list[int]] = defaultdict(list)
    for index, node in enumerate(graph.node):
        for name in node.input:
            consumers[name].append(index)
    folded = {i.name for i in optimized.initializer}
    names = Counter(node.name for node in optimized.node)
    unchanged = {(n.name, n.op_type): n for n in optimized.node if n.name and names[n.name] == 1}
    resolved: dict[int, Any] = {}
    for index in reversed(range(len(graph.node))):  # consumers come later: they are resolved
        made = [name for name in graph.node[index].output if name]
        outputs = [in_place.get(name, name) for name in made]
        if any(name in folded for name in outputs):
            continue
        node = graph.node[index]
        runner = unchanged.get((node.name, node.op_type))
        if runner is None:
            runner = next((producer[name] for name in outputs if name in producer), None)
        if runner is None:
            following = (resolved.get(c) for name in made for c in consumers[name])
            runner = next((found for found in following if found is not None), None)
        if runner is not None:
            resolved[index] = runner
    return resolved


def value_types(onnx: Any, graph: Any, outside: Mapping[str, str] | None = None) -> dict[str, str]:
    """The element type of every tensor, by following the nodes in order.

    ``outside`` are those that a branch or a body reads from the graph that it is in. onnx's own
    shape inference stops at onnxruntime's private operators, which are the ones that matter here.
    """
    types = dict(outside or {})
    types |= {i.name: dtype_name(onnx, i.data_type) for i in graph.initializer}
    for value in graph.input:
        element = value.type.tensor_type.elem_type
        types[value.name] = dtype_name(onnx, element) if element else ""
    for node in graph.node:
        handed = _handed_types(onnx, node)
        result = "" if handed else _output_type(onnx, node, types)
        for place, name in enumerate(node.output):
            types[name] = handed[place] if place < len(handed) else result
    return types


def _handed_types(onnx: Any, node: Any) -> list[str]:
    """The element types of what a branch or a body of ``node`` hands out, as it says."""
    graph = next((graph for _, graph in inner_graphs(node)), None)
    if graph is None:
        return []
    elements = [value.type.tensor_type.elem_type for value in graph.output]
    # The first of a loop is whether it goes on.
    return [dtype_name(onnx, e) if e else "" for e in elements[node.op_type == "Loop" :]]


def _output_type(onnx: Any, node: Any, types: dict[str, str]) -> str:
    """The element type that ``node`` writes; "" where it cannot be told."""
    attributes = {a.name: a for a in node.attribute}
    kind = node.op_type
    if kind == "Cast":
        return dtype_name(onnx, attributes["to"].i)
    if kind == "Constant":
        return dtype_name(onnx, attributes["value"].t.data_type) if "value" in attributes else ""
    if kind in _FIXED_OUTPUT_TYPES or kind.startswith("DynamicQ"):
        return _FIXED_OUTPUT_TYPES.get(kind, "float32")
    inputs = list(node.input)
    # The input whose type the output has: a zero point, a scale, or the data itself.
    position = {"QuantizeLinear": 2, "DequantizeLinear": 1, "Where": 1}.get(kind, 0)
    if kind == "QuantizeLinear" and len(inputs) < 3:
        return "uint8"
    if kind == "QGemm" and (len(inputs) < 9 or not inputs[8]):
        return "float32"
    return types.get(inputs[position], "") if len(inputs) > position else ""


def compute_of_node(node: Any, types: Mapping[str, str]) -> str:
    if node.op_type in HOLDERS:
        return CONTROL
    source = next(_known(types, node.input), "unknown")
    if node.op_type in (*CONVERSIONS, "Cast"):
        return f"{source}->{next(_known(types, node.output), 'unknown')}"
    # Integer products that write float serve static quantization too; only their own inputs tell.
    is_static = node.op_type == "MatMulIntegerToFloat"
    if node.op_type.startswith(("MatMulInteger", "ConvInteger", "DynamicQ")) and not is_static:
        return "int8 dynamic"
    if node.op_type.startswith(INTEGER_KERNELS):
        return next((t for t in _known(types, node.input) if t in ("int8", "uint8")), source)
    return source


def _known(types: Mapping[str, str], names: Iterable[str]) -> Iterator[str]:
    return (types[name] for name in names if types.get(name))
