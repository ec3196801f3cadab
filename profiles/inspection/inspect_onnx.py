"""The facts of an .onnx file, and what onnxruntime makes of each of its nodes.

Runs in a child process: see :func:`mnv4_deploy.profiles.inspection.inspect.inspect_file`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mnv4_deploy.errors import ModelFileError, ToolchainError
from mnv4_deploy.profiles.files.hashes import sha256_of
from mnv4_deploy.profiles.graph.external_weights import load_weights
from mnv4_deploy.profiles.graph.onnx_model import load_onnx
from mnv4_deploy.profiles.ort.float_reasons import float_reasons
from mnv4_deploy.profiles.ort.rules import CONVERSIONS, INTEGER_KERNELS
from mnv4_deploy.profiles.records.files import FileFacts, OperatorFacts, TensorFacts
from mnv4_deploy.profiles.runtimes.run_ort import optimized_graph

_FLOATS = ("float32", "float16", "float64", "bfloat16")
_FIXED_OUTPUT_TYPES = {
    **dict.fromkeys(
        ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or"), "bool"
    ),
    **dict.fromkeys(("Shape", "Size", "ArgMax", "ArgMin", "NonZero"), "int64"),
    **dict.fromkeys(("MatMulInteger", "ConvInteger"), "int32"),
    "MatMulIntegerToFloat": "float32",
}


def inspect_here(path: str) -> FileFacts:
    """The facts of ``path``, found in this process.

    Raises ModelFileError for a damaged file, ToolchainError where onnx is missing. Without
    onnxruntime the facts say so in a note.
    """
    try:
        import onnx
    except ImportError as error:
        raise ToolchainError(
            "Inspecting an .onnx file needs onnx: run pip install 'mnv4-deploy[onnx]'."
        ) from error
    file = Path(path)
    model = load_onnx(onnx, file)
    load_weights(file, model)
    problem = _checker_problem(onnx, file)
    notes: tuple[str, ...] = ()
    executed, traced = None, None
    try:
        executed = optimized_graph(file).graph
        traced = optimized_graph(file, traceable=True).graph
        if _integer_kernels(executed) != _integer_kernels(traced):
            notes = ("Some nodes may run in another arithmetic than listed: see what executes.",)
    except (ToolchainError, ModelFileError) as error:
        if problem:
            raise ModelFileError(f"{file} is not a valid ONNX model: {problem}") from error
        notes = (f"What really runs is unknown: {error}",)
    if problem:
        notes += (f"The ONNX checker objects, though onnxruntime loads the file: {problem}",)
    graph = model.graph
    constants = {i.name for i in graph.initializer}
    quantization = _boundary_quantization(onnx, graph)
    return FileFacts(
        path=str(file),
        format="onnx",
        size_bytes=file.stat().st_size,
        sha256=sha256_of(file),
        inputs=tuple(
            _tensor_facts(onnx, v, quantization) for v in graph.input if v.name not in constants
        ),
        outputs=tuple(_tensor_facts(onnx, v, quantization) for v in graph.output),
        operators=_operators(onnx, graph, traced, executed),
        weight_bytes_by_dtype=_weight_bytes(onnx, graph),
        metadata={p.key: p.value for p in model.metadata_props},
        notes=notes,
        executed_histogram=_histogram(executed) if executed is not None else None,
    )


def _checker_problem(onnx: Any, path: Path) -> str | None:
    """The first line of what the ONNX checker objects to, if anything."""
    try:
        # By path, because a model with its weights beside it may exceed protobuf's 2 GB.
        onnx.checker.check_model(str(path))
    except Exception as error:  # protobuf's and onnx's exceptions share no base
        return str(error).strip().partition("\n")[0]
    return None


def _dtype_name(onnx: Any, element_type: int) -> str:
    name = str(onnx.TensorProto.DataType.Name(element_type)).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def _tensor_facts(
    onnx: Any, value: Any, quantization: dict[str, tuple[tuple[float, ...], tuple[int, ...]]]
) -> TensorFacts:
    tensor = value.type.tensor_type
    shape = tuple(
        d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in tensor.shape.dim
    )
    scale, zero_point = quantization.get(value.name, ((), ()))
    return TensorFacts(value.name, shape, _dtype_name(onnx, tensor.elem_type), scale, zero_point)


def _boundary_quantization(
    onnx: Any, graph: Any
) -> dict[str, tuple[tuple[float, ...], tuple[int, ...]]]:
    """Scale and zero point of tensors that a Q or DQ node reads or writes in integers."""
    constants = {i.name: i for i in graph.initializer}
    found = {}
    for node in graph.node:
        if node.op_type not in CONVERSIONS:
            continue
        tensor = node.output[0] if node.op_type == "QuantizeLinear" else node.input[0]
        if tensor in constants or node.input[1] not in constants:
            continue
        scale = onnx.numpy_helper.to_array(constants[node.input[1]]).reshape(-1)
        zero = [0]
        if len(node.input) > 2 and node.input[2] in constants:
            zero = onnx.numpy_helper.to_array(constants[node.input[2]]).reshape(-1).tolist()
        found[tensor] = (tuple(float(s) for s in scale), tuple(int(z) for z in zero))
    return found


def _weight_bytes(onnx: Any, graph: Any) -> dict[str, int]:
    total: defaultdict[str, int] = defaultdict(int)
    tensors = list(graph.initializer)
    for node in graph.node:
        if node.op_type == "Constant":
            tensors += [a.t for a in node.attribute if a.name == "value"]
    for tensor in tensors:
        total[_dtype_name(onnx, tensor.data_type)] += onnx.numpy_helper.to_array(tensor).nbytes
    return dict(total)


def _histogram(graph: Any) -> dict[str, int]:
    return dict(Counter(node.op_type for node in graph.node).most_common())


def _integer_kernels(graph: Any) -> Counter[str]:
    return Counter(n.op_type for n in graph.node if n.op_type.startswith(INTEGER_KERNELS))


def _operators(
    onnx: Any, graph: Any, optimized: Any | None, executed: Any | None
) -> tuple[OperatorFacts, ...]:
    types = value_types(onnx, optimized if optimized is not None else graph)
    runs_as = _absorbed_by(graph, optimized) if optimized is not None else {}
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
    if optimized is None or executed is None:
        return tuple(facts)
    if _integer_kernels(executed) != _integer_kernels(optimized):
        left = _left_in_float(onnx, executed)
        keys = [(node.name, node.op_type) for node in graph.node]
        facts = [
            replace(op, compute=left[key], runs_as=None) if key in left else op
            for op, key in zip(facts, keys, strict=True)
        ]
    reasons = float_reasons(graph, (op.index for op in facts if op.compute in _FLOATS))
    return tuple(replace(op, float_reason=reasons.get(op.index)) for op in facts)


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


def _absorbed_by(graph: Any, optimized: Any) -> dict[int, Any]:
    """File node index -> node of the optimised graph that does its work.

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
        outputs = [name for name in graph.node[index].output if name]
        if any(name in folded for name in outputs):
            continue
        node = graph.node[index]
        runner = unchanged.get((node.name, node.op_type))
        if runner is None:
            runner = next((producer[name] for name in outputs if name in producer), None)
        if runner is None:
            following = (resolved.get(c) for name in outputs for c in consumers[name])
            runner = next((found for found in following if found is not None), None)
        if runner is not None:
            resolved[index] = runner
    return resolved


def value_types(onnx: Any, graph: Any) -> dict[str, str]:
    """The element type of every tensor, by following the nodes in order.

    onnx's own shape inference stops at onnxruntime's private operators, which are the ones that
    matter here.
    """
    types = {i.name: _dtype_name(onnx, i.data_type) for i in graph.initializer}
    for value in graph.input:
        types[value.name] = _dtype_name(onnx, value.type.tensor_type.elem_type)
    for node in graph.node:
        result = _output_type(onnx, node, types)
        for name in node.output:
            types[name] = result
    return types


def _output_type(onnx: Any, node: Any, types: dict[str, str]) -> str:
    """The element type that ``node`` writes; "" where it cannot be told."""
    attributes = {a.name: a for a in node.attribute}
    kind = node.op_type
    if kind == "Cast":
        return _dtype_name(onnx, attributes["to"].i)
    if kind == "Constant":
        return _dtype_name(onnx, attributes["value"].t.data_type) if "value" in attributes else ""
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


def compute_of_node(node: Any, types: dict[str, str]) -> str:
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


def _known(types: dict[str, str], names: Iterable[str]) -> Iterator[str]:
    return (types[name] for name in names if types.get(name))
