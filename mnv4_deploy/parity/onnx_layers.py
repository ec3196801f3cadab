"""The layers of an .onnx file, as outputs of a copy of it.

onnxruntime turns DequantizeLinear -> Conv -> QuantizeLinear into one int8 kernel, but not where
someone wants the float value in between. So the copy gives only what a layer leaves in the end:
the codes behind its QuantizeLinear, and floats where nothing quantizes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.layers.families import MOVES
from mnv4_deploy.layers.find_layers import find_layers
from mnv4_deploy.layers.layer import Quantization
from mnv4_deploy.layers.onnx_constants import Constants
from mnv4_deploy.parity.layers import INTEGERS, Plan, Watched
from mnv4_deploy.profiles.graph.external_weights import load_weights
from mnv4_deploy.profiles.graph.onnx_model import load_onnx
from mnv4_deploy.profiles.join.modules import module_of_ops
from mnv4_deploy.profiles.records.files import FileFacts
from mnv4_deploy.profiles.records.graph import ModelGraph

if TYPE_CHECKING:
    import onnx

_MAX_MESSAGE_BYTES = (1 << 31) - 1  # protobuf's


def onnx_plan(path: Path, graph: ModelGraph, facts: FileFacts, folder: Path) -> Plan:
    """Write the copy to ``folder``. ``graph`` is that of ``path``.

    Raises ModelFileError for a damaged file, UnsupportedError for one too large to be copied.
    """
    import onnx

    model = load_onnx(onnx, path)
    load_weights(path, model)
    quantization = onnx_quantizations(model, graph)
    found = find_layers(graph, module_of_ops(graph), quantization)
    layers = tuple(
        Watched(
            op=layer.op,
            module=layer.module,
            kind=layer.kind,
            compute=facts.operators[layer.op].compute if layer.op < len(facts.operators) else "",
            tensor=layer.output,
            name=layer.name,
            shape=graph.tensors[layer.output].shape,
            sources=layer.sources,
            quantization=layer.quantization,
        )
        for layer in found
    )
    own = {value.name for value in model.graph.output}
    ends = dict.fromkeys(layer.tensor for layer in layers)
    extra = [t for t in ends if graph.tensors[t].name not in own]
    model.graph.output.extend(onnx.ValueInfoProto(name=graph.tensors[t].name) for t in extra)
    if model.ByteSize() > _MAX_MESSAGE_BYTES:
        raise UnsupportedError(f"{path} is too large for a copy that shows its layers.")
    copy = folder / "layers.onnx"
    copy.write_bytes(model.SerializeToString())
    order = (*graph.outputs, *extra)
    return Plan(copy, None, order, len(graph.outputs), graph.inputs, layers)


def onnx_quantizations(model: onnx.ModelProto, graph: ModelGraph) -> dict[int, Quantization]:
    """The integer tensors whose scale is stored as a single number."""
    constants = Constants(model.graph)
    index = {tensor.name: i for i, tensor in enumerate(graph.tensors)}
    found: dict[int, Quantization] = {}
    for name, names in _scales(model):
        at = index.get(name, -1)
        scale = constants.value(names[0])
        if at < 0 or scale is None or scale.dtype.kind != "f":
            continue
        pair = constants.scalar_pair(names)
        if pair is not None and graph.tensors[at].dtype in INTEGERS:
            found.setdefault(at, Quantization(*pair, graph.tensors[at].dtype))
    for op in graph.ops:  # operators that only move codes leave them their scale
        if op.kind in MOVES and op.inputs and op.inputs[0] in found:
            moved = found[op.inputs[0]]
            same = [t for t in op.outputs if graph.tensors[t].dtype == moved.dtype]
            for tensor in same:
                found.setdefault(tensor, moved)
    return found


def _scales(model: onnx.ModelProto) -> Iterator[tuple[str, list[str]]]:
    """Tensors with the names of their scale and zero point.

    Every operator that reads codes has their scale and zero point right behind them.
    """
    for node in model.graph.node:
        names = list(node.input)
        if node.op_type == "QuantizeLinear":
            yield node.output[0], names[1:3]
        else:
            for at, name in enumerate(names[:-1]):
                yield name, names[at + 1 : at + 3]
