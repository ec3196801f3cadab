"""The graph of an .onnx file with the shapes and types that its tensors really have.

onnx's shape inference stops at onnxruntime's private operators and at dynamic shapes, so the
file runs once, unoptimised, and onnxruntime's own profile tells every shape.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from mnv4_deploy.profiles.graph.onnx.bodies import bodies_of, nodes_of, without_functions
from mnv4_deploy.profiles.graph.onnx.constants import constants_of, dtype_name
from mnv4_deploy.profiles.graph.onnx.external_weights import check_weights
from mnv4_deploy.profiles.graph.onnx.model import import_onnx, load_onnx
from mnv4_deploy.profiles.graph.onnx.run import run_once
from mnv4_deploy.profiles.graph.onnx.scales import with_scales
from mnv4_deploy.profiles.graph.onnx.values import Values, operator_names
from mnv4_deploy.profiles.graph.shapes import Shapes
from mnv4_deploy.profiles.records.graph import Attribute, ModelGraph, Tensor
from mnv4_deploy.profiles.records.inputs import GivenInputs
from mnv4_deploy.profiles.runtimes.ort.inputs import example_inputs

_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training")


def read_onnx(
    path: Path,
    shapes: Shapes | None = None,
    given: GivenInputs | None = None,
    *,
    whole: bool = False,
) -> ModelGraph:
    """The main graph of ``path``.

    ``whole``: with the operators in branches and bodies (If, Loop, Scan) behind it, and with those
    of the file's functions where they are called; else they are left out. ``shapes`` as in
    :func:`resolve_shape`, ``given`` are values of inputs. A tensor that a subgraph reads from
    outside is an input of the operator that holds the subgraph. A value that is no tensor (a
    sequence) has no elements and the type "unknown".
    Raises ModelFileError for a file that onnx cannot read or onnxruntime cannot run,
    UnsupportedError for inputs that cannot be made up and for a shape or value that does not fit,
    ToolchainError where onnx or onnxruntime is missing.
    """
    onnx = import_onnx()
    model = load_onnx(onnx, path)
    check_weights(path, model)  # in the folder that run_once names to onnxruntime
    if whole:
        model = without_functions(path, model)
    everything = bodies_of(model.graph)
    weight_bytes: Counter[str] = Counter()
    for body in everything:
        for tensor in constants_of(onnx, body.graph).values():
            weight_bytes[tensor.dtype] += tensor.size_bytes
    bodies = everything if whole else everything[:1]
    nodes = nodes_of(bodies)
    names = operator_names(nodes, apart=whole)
    types, open_shapes = _declared_types(onnx, model), _declared_shapes(model.graph)
    values = Values(bodies, [constants_of(onnx, body.graph) for body in bodies])
    main = values.main
    inputs = [v.name for v in model.graph.input if v.name not in main]
    found, seen = run_once(
        path, model, nodes, lambda session: example_inputs(session, shapes, given), main
    )
    for name, (shape, dtype) in found.items():
        own = Tensor(name, shape, types.get(name, dtype), declared=open_shapes.get(name, ()))
        main.setdefault(name, own)
    values.add_observed(seen)
    main.update(with_scales(path, model, main))
    operators = values.operators(
        names, seen, _attributes, lambda node: node.domain not in _DOMAINS
    )
    return ModelGraph(
        "onnx",
        values.tensors,
        operators,
        tuple(values.position(0, name) for name in inputs),
        tuple(values.position(0, v.name) for v in model.graph.output if v.name in main),
        weight_bytes=dict(weight_bytes),
        metadata={entry.key: entry.value for entry in model.metadata_props},
    )


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
        v.name: dtype_name(onnx, v.type.tensor_type.elem_type)
        for v in known
        if v.type.tensor_type.elem_type
    }


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
