"""The layers of an .onnx file, as outputs of a copy of it.

onnxruntime turns DequantizeLinear -> Conv -> QuantizeLinear into one int8 kernel, but not where
someone wants the float value in between. So the copy gives only what a layer leaves in the end:
the codes behind its QuantizeLinear, and floats where nothing quantizes them.
"""

from __future__ import annotations

from pathlib import Path

from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.layers.find_layers import find_layers
from mnv4_deploy.parity.layers import LayersPlan, Watched
from mnv4_deploy.profiles.graph.onnx.external_weights import load_weights
from mnv4_deploy.profiles.graph.onnx.model import load_onnx
from mnv4_deploy.profiles.join.modules import module_of_ops
from mnv4_deploy.profiles.records.files import FileFacts
from mnv4_deploy.profiles.records.graph import ModelGraph

_MAX_MESSAGE_BYTES = (1 << 31) - 1  # protobuf's


def onnx_plan(path: Path, graph: ModelGraph, facts: FileFacts, folder: Path) -> LayersPlan:
    """Write the copy to ``folder``. ``graph`` is that of ``path``.

    Raises ModelFileError for a damaged file, UnsupportedError for one too large to be copied.
    """
    import onnx

    model = load_onnx(onnx, path)
    load_weights(path, model)
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
        for layer in find_layers(graph, module_of_ops(graph))
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
    return LayersPlan(copy, None, order, len(graph.outputs), graph.inputs, layers)
