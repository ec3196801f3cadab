"""The graph of an .onnx file with the shapes and types that its tensors really have.

onnx's shape inference stops at onnxruntime's private operators and at dynamic shapes, so the
file runs once, unoptimised, and onnxruntime's own profile tells every shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnv4_deploy.errors import ToolchainError
from mnv4_deploy.profiles.graph.external_weights import check_weights
from mnv4_deploy.profiles.graph.onnx_model import load_onnx
from mnv4_deploy.profiles.graph.onnx_run import run_once
from mnv4_deploy.profiles.graph.shapes import Shapes
from mnv4_deploy.profiles.records.graph import Attribute, ModelGraph, Operator, Tensor

_TYPE_NAMES = {"float": "float32", "double": "float64"}
_UNKNOWN_TYPE = "unknown"


@dataclass(frozen=True)
class _Value:
    shape: tuple[int, ...]
    dtype: str
    constant: bool = False


def read_onnx(path: Path, shapes: Shapes | None = None) -> ModelGraph:
    """The main graph of ``path``; the nodes of subgraphs (If, Loop, Scan) are left out.

    ``shapes`` as in :func:`resolve_shape`. A tensor that a subgraph reads from outside is an
    input of the operator that holds the subgraph. A value that is no tensor (a sequence) has no
    elements and the type "unknown". Raises ModelFileError for a file that onnx cannot read or
    onnxruntime cannot run, UnsupportedError for inputs that cannot be made up and for a shape
    that does not fit, ToolchainError where onnx or onnxruntime is missing.
    """
    onnx = _import_onnx()
    model = load_onnx(onnx, path)
    check_weights(path, model)  # in the folder that run_once names to onnxruntime
    graph = model.graph
    values = _constants(onnx, graph)
    inputs = [v.name for v in graph.input if v.name not in values]
    declared = _declared_types(onnx, model)
    nodes = list(graph.node)
    original_names = [node.name for node in nodes]
    for name, (shape, dtype) in run_once(path, model, shapes or {}, values).items():
        values.setdefault(name, _Value(shape, declared.get(name, dtype)))
    reads = [[*node.input, *_captured(node)] for node in nodes]
    names = dict.fromkeys(values)
    for node, read in zip(nodes, reads, strict=True):
        names |= dict.fromkeys(name for name in [*read, *node.output] if name)
    positions = {name: i for i, name in enumerate(names)} | {"": -1}
    missing = _Value((0,), _UNKNOWN_TYPE)
    return ModelGraph(
        "onnx",
        tuple(
            Tensor(name, value.shape, value.dtype, value.constant)
            for name, value in ((name, values.get(name, missing)) for name in names)
        ),
        tuple(
            Operator(
                index=index,
                kind=node.op_type,
                name=original_names[index] or next(iter(node.output), node.op_type),
                inputs=tuple(positions[name] for name in reads[index]),
                outputs=tuple(positions[name] for name in node.output),
                attributes=_attributes(node),
            )
            for index, node in enumerate(nodes)
        ),
        tuple(positions[name] for name in inputs),
        tuple(positions[v.name] for v in graph.output if v.name in positions),
    )


def _import_onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise ToolchainError(
            "Reading an .onnx file needs onnx: run pip install 'mnv4-deploy[onnx]'."
        ) from error
    return onnx


def _dtype_name(onnx: Any, element_type: int) -> str:
    name = str(onnx.TensorProto.DataType.Name(element_type)).lower()
    return _TYPE_NAMES.get(name, name)


def _constants(onnx: Any, graph: Any) -> dict[str, _Value]:
    """Initializers and the outputs of Constant nodes."""
    found = {}
    for tensor in graph.initializer:
        dtype = _dtype_name(onnx, tensor.data_type)
        found[tensor.name] = _Value(tuple(tensor.dims), dtype, constant=True)
    for sparse in graph.sparse_initializer:
        dtype = _dtype_name(onnx, sparse.values.data_type)
        found[sparse.values.name] = _Value(tuple(sparse.dims), dtype, constant=True)
    for node in graph.node:
        if node.op_type == "Constant" and node.output:
            for attribute in node.attribute:
                found[node.output[0]] = _constant(onnx, attribute)
    return found


def _constant(onnx: Any, attribute: Any) -> _Value:
    if attribute.name == "value":
        dtype = _dtype_name(onnx, attribute.t.data_type)
        return _Value(tuple(attribute.t.dims), dtype, constant=True)
    if attribute.name == "sparse_value":
        sparse = attribute.sparse_tensor
        dtype = _dtype_name(onnx, sparse.values.data_type)
        return _Value(tuple(sparse.dims), dtype, constant=True)
    scalar = {"value_float": "float32", "value_int": "int64", "value_string": "string"}
    if attribute.name in scalar:
        return _Value((), scalar[attribute.name], constant=True)
    many = max(len(attribute.floats), len(attribute.ints), len(attribute.strings))
    dtype = scalar.get(attribute.name.removesuffix("s"), _UNKNOWN_TYPE)
    return _Value((many,), dtype, constant=True)


def _declared_types(onnx: Any, model: Any) -> dict[str, str]:
    """The element types by tensor of a model with 16-bit floats, else nothing.

    onnxruntime runs such operators in float32 where it has no kernel for them, and its profile
    then tells float32.
    """
    halves = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    used = {t.data_type for t in model.graph.initializer}
    used |= {v.type.tensor_type.elem_type for v in model.graph.input}
    if not used & halves:
        return {}
    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except Exception:  # onnx's exceptions share no base; the profile's types do then
        graph = model.graph
    known = [*graph.value_info, *graph.output]
    return {
        v.name: _dtype_name(onnx, v.type.tensor_type.elem_type)
        for v in known
        if v.type.tensor_type.elem_type
    }


def _captured(node: Any) -> list[str]:
    """What the subgraphs of ``node`` read from outside themselves."""
    found: dict[str, None] = {}
    for attribute in node.attribute:
        for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
            own = {v.name for v in graph.input} | {t.name for t in graph.initializer}
            own |= {name for inner in graph.node for name in inner.output}
            reads = [name for n in graph.node for name in [*n.input, *_captured(n)]]
            reads += [v.name for v in graph.output]
            found |= dict.fromkeys(name for name in reads if name and name not in own)
    return list(found)


def _attributes(node: Any) -> dict[str, Attribute]:
    """Numbers, texts and lists of numbers; tensors and subgraphs are left out."""
    found: dict[str, Attribute] = {}
    for a in node.attribute:
        if a.type == a.INT:
            found[a.name] = int(a.i)
        elif a.type == a.FLOAT:
            found[a.name] = float(a.f)
        elif a.type == a.STRING:
            found[a.name] = a.s.decode("utf-8", "replace")
        elif a.type == a.INTS:
            found[a.name] = tuple(map(int, a.ints))
        elif a.type == a.FLOATS:
            found[a.name] = tuple(map(float, a.floats))
    return found
