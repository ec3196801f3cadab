"""Copies of a file in which every layer reads values that are given, not those computed.

So each layer runs on the same bits on both sides, also behind one that differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mnv4_deploy.parity.layers import LayersPlan
from mnv4_deploy.profiles.graph.onnx.links import OnnxLinks
from mnv4_deploy.profiles.records.graph import ModelGraph

_GIVEN = ";given"


def read_by_layers(plan: LayersPlan) -> tuple[int, ...]:
    """The tensors that layers read and other layers make."""
    made = {layer.tensor for layer in plan.layers}
    return tuple(dict.fromkeys(t for layer in plan.layers for t in layer.sources if t in made))


def isolated_copy(plan: LayersPlan, graph: ModelGraph, given: Sequence[int], folder: Path) -> Path:
    """Write a copy of ``plan.path`` that takes the tensors ``given`` behind its own inputs.

    Its outputs are ``plan.order``: nothing reads what a layer makes, so that runtimes would not
    keep it otherwise. Raises what reading a damaged file does.
    """
    path = folder / f"isolated-{len(given)}.{graph.format}"
    if graph.format == "tflite":
        _tflite_copy(plan, graph, given, path)
    else:
        _onnx_copy(plan.path, graph, given, path)
    return path


def _tflite_copy(plan: LayersPlan, graph: ModelGraph, given: Sequence[int], path: Path) -> None:
    from mnv4_deploy.exporters.to_tflite.flatbuffer import TfliteFile

    file = TfliteFile(plan.path)
    renamed: dict[int, int] = {}
    for tensor in given:
        copy = file.schema.TensorT()
        vars(copy).update(vars(file.graph.tensors[tensor]))
        copy.name = f"{file.name(tensor)}{_GIVEN}".encode()
        copy.shape, copy.shapeSignature = np.array(graph.tensors[tensor].shape, np.int32), None
        file.graph.tensors.append(copy)
        renamed[tensor] = len(file.graph.tensors) - 1
    for operator in file.graph.operators:
        operator.inputs = np.array(
            [renamed.get(int(t), int(t)) for t in operator.inputs], dtype=np.int32
        )
    file.graph.inputs = np.array([*file.graph.inputs, *renamed.values()], dtype=np.int32)
    file.graph.outputs = np.array(plan.order, dtype=np.int32)
    file.model.signatureDefs = []
    file.write(path)


def _onnx_copy(source: Path, graph: ModelGraph, given: Sequence[int], path: Path) -> None:
    import onnx

    model = onnx.load(str(source), load_external_data=False)  # a copy of ours has all in it
    links = OnnxLinks(model.graph)
    for tensor in given:
        facts = graph.tensors[tensor]
        name = f"{facts.name}{_GIVEN}"
        links.replace_reads(facts.name, name)
        dtype = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(facts.dtype))
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, dtype, facts.shape))
    path.write_bytes(model.SerializeToString())
