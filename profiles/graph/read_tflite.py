"""The graph of a .tflite file with every dimension resolved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mnv4_deploy.errors import ModelFileError
from mnv4_deploy.profiles.graph.shapes import Shapes, check_names, resolve_shape
from mnv4_deploy.profiles.graph.tflite_graph import GraphTensor, TfliteGraph, read_graph
from mnv4_deploy.profiles.records.graph import ModelGraph, Operator, Tensor


def read_tflite(path: Path, shapes: Shapes | None = None) -> ModelGraph:
    """The main graph of ``path``.

    Shapes are the file's own. Where an input gets another shape than the file allocates, those
    of the tensors behind it are the interpreter's; a tensor whose size depends on the data
    keeps the file's, with 1 for what is unknown. Raises ModelFileError for a damaged file or
    one that cannot take the shape, UnsupportedError for a shape that does not fit.
    """
    graph = read_graph(path)
    inputs = _input_shapes(graph, shapes or {})
    resized = {i: shape for i, shape in inputs.items() if shape != graph.tensors[i].static_shape}
    found = _propagated(path, graph, resized) if resized else {}
    tensors = tuple(
        _tensor(tensor, found.get(i, inputs.get(i, tensor.static_shape)))
        for i, tensor in enumerate(graph.tensors)
    )
    ops = tuple(
        Operator(
            index=op.index,
            kind=op.kind,
            name=graph.tensors[op.outputs[0]].name if op.outputs else op.kind,
            inputs=op.inputs,
            outputs=op.outputs,
            attributes=op.attributes,
        )
        for op in graph.ops
    )
    return ModelGraph("tflite", tensors, ops, graph.inputs, graph.outputs)


def _input_shapes(graph: TfliteGraph, shapes: Shapes) -> dict[int, tuple[int, ...]]:
    check_names(shapes, [graph.tensors[i].name for i in graph.inputs])
    only = len(graph.inputs) == 1
    return {
        i: resolve_shape(graph.tensors[i].name, graph.tensors[i].shape, shapes, only=only)
        for i in graph.inputs
    }


def _tensor(tensor: GraphTensor, shape: tuple[int, ...]) -> Tensor:
    return Tensor(
        tensor.name, tuple(1 if n < 0 else n for n in shape), tensor.dtype, tensor.constant
    )


def _propagated(
    path: Path, graph: TfliteGraph, resized: Mapping[int, tuple[int, ...]]
) -> dict[int, tuple[int, ...]]:
    """The shape of every tensor, by index, once the inputs have been resized."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    try:
        interpreter = Interpreter(
            model_path=str(path),
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        for i, shape in resized.items():
            interpreter.resize_tensor_input(i, shape)
        interpreter.allocate_tensors()
        details = interpreter.get_tensor_details()
    except (RuntimeError, ValueError) as error:
        named = ", ".join(
            f"{graph.tensors[i].name}={'x'.join(map(str, shape))}" for i, shape in resized.items()
        )
        reason = str(error).strip().partition("\n")[0]
        raise ModelFileError(f"{path} cannot take {named}: {reason}") from error
    return {
        d["index"]: tuple(map(int, d["shape"]))
        for d in details
        if d["index"] < len(graph.tensors) and not graph.tensors[d["index"]].constant
    }
