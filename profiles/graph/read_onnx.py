"""The graph of an .onnx file with the shapes and types that its tensors really have.

onnx's shape inference stops at onnxruntime's private operators and at dynamic shapes, so the
file runs once, unoptimised, and onnxruntime's own profile tells every shape.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from mnv4_deploy.errors import ToolchainError
from mnv4_deploy.profiles.graph.external_weights import check_weights
from mnv4_deploy.profiles.graph.onnx_model import load_onnx
from mnv4_deploy.profiles.graph.onnx_run import run_once
from mnv4_deploy.profiles.graph.onnx_scales import with_scales
from mnv4_deploy.profiles.graph.shapes import Shapes
from mnv4_deploy.profiles.records.graph import Attribute, ModelGraph, Operator, Tensor

_TYPE_NAMES = {"float": "float32", "double": "float64"}
_UNKNOWN_TYPE = "unknown"
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training")


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
    weight_bytes: Counter[str] = Counter()
    for tensor in values.values():
        weight_bytes[tensor.dtype] += tensor.size_bytes
    inputs = [v.name for v in graph.input if v.name not in values]
    types, open_shapes = _declared_types(onnx, model), _declared_shapes(graph)
    nodes = list(graph.node)
    original_names = [node.name for node in nodes]
    for name, (shape, dtype) in run_once(path, model, shapes or {}, values).items():
        own = Tensor(name, shape, types.get(name, dtype), declared=open_shapes.get(name, ()))
        values.setdefault(name, own)
    reads = [[*node.input, *_captured(node)] for node in nodes]
    for node, read in zip(nodes, reads, strict=True):
        for name in filter(None, [*read, *node.output]):
            values.setdefault(name, Tensor(name, (0,), _UNKNOWN_TYPE))
    positions = {name: i for i, name in enumerate(values)} | {"": -1}
    return ModelGraph(
        "onnx",
        tuple(with_scales(path, model, values).values()),
        tuple(
            Operator(
                index=index,
                kind=node.op_type,
                name=original_names[index] or next(iter(node.output), node.op_type),
                inputs=tuple(positions[name] for name in reads[index]),
                outputs=tuple(positions[name] for name in node.output),
                attributes=_attributes(node),
                custom=node.domain not in _DOMAINS,
            )
            for index, node in enumerate(nodes)
        ),
        tuple(positions[name] for name in inputs),
        tuple(positions[v.name] for v in graph.output if v.name in positions),
        weight_bytes=dict(weight_bytes),
        metadata={entry.key: entry.value for entry in model.metadata_props},
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


def _constants(onnx: Any, graph: Any) -> dict[str, Tensor]:
    """Initializers and the outputs of Constant nodes."""

    def constant(name: str, shape: tuple[int, ...], dtype: str) -> None:
        found[name] = Tensor(name, shape, dtype, constant=True, declared=shape)

    found: dict[str, Tensor] = {}
    for tensor in graph.initializer:
        constant(tensor.name, tuple(tensor.dims), _dtype_name(onnx, tensor.data_type))
    for sparse in graph.sparse_initializer:
        values = sparse.values
        constant(values.name, tuple(sparse.dims), _dtype_name(onnx, values.data_type))
    for node in graph.node:
        if node.op_type == "Constant" and node.output:
            for attribute in node.attribute:
                constant(node.output[0], *_typed(onnx, attribute))
    return found


def _typed(onnx: Any, attribute: Any) -> tuple[tuple[int, ...], str]:
    """Shape and element type of what ``attribute`` of a Constant node holds."""
    if attribute.name == "value":
        return tuple(attribute.t.dims), _dtype_name(onnx, attribute.t.data_type)
    if attribute.name == "sparse_value":
        sparse = attribute.sparse_tensor
        return tuple(sparse.dims), _dtype_name(onnx, sparse.values.data_type)
    scalar = {"value_float": "float32", "value_int": "int64", "value_string": "string"}
    if attribute.name in scalar:
        return (), scalar[attribute.name]
    many = max(len(attribute.floats), len(attribute.ints), len(attribute.strings))
    return (many,), scalar.get(attribute.name.removesuffix("s"), _UNKNOWN_TYPE)


def _declared_shapes(graph: Any) -> dict[str, tuple[int, ...]]:
    """Shapes in the file, by tensor, with -1 for a side that is a symbol."""
    return {
        v.name: tuple(
            d.dim_value if d.HasField("dim_value") else -1 for d in v.type.tensor_type.shape.dim
        )
        for v in (*graph.value_info, *graph.input, *graph.output)
    }


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
