"""PyTorch module to float32 ONNX, simplified and checked.

Opset 20: the first with Gelu as one operator; onnxruntime has run it since 1.17 (2024).

Nodes are named ``<module path>/<operator>`` and values after the node that makes them, so that
a profile of the file can be joined to the modules it came from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mnv4_deploy.errors import ToolchainError
from mnv4_deploy.models.records import LOGITS, OutputSpec
from mnv4_deploy.profiles.graph.onnx.links import OnnxLinks
from mnv4_deploy.profiles.runtimes.quiet import quiet

if TYPE_CHECKING:
    import onnx

OPSET = 20
_SCOPES = "pkg.torch.onnx.name_scopes"
_FP16_MAX = 65504.0
# Smaller constants (biases, shapes, scales) would save nothing.
_FP16_MIN_ELEMENTS = 256


class Uint8Input(nn.Module):
    """Takes RGB pixels ``[B, H, W, 3]`` uint8 and normalises them itself.

    The normalisation stays an explicit multiply and add: folded into the stem, it would need a
    map for the zero padding at the border that is larger than the input.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, module: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.module = module
        mean_C, std_C = torch.tensor(mean).view(1, 3, 1, 1), torch.tensor(std).view(1, 3, 1, 1)
        self.register_buffer("scale", 1 / (255 * std_C))
        self.register_buffer("shift", -mean_C / std_C)

    def forward(self, pixels_BHWC: Tensor) -> Any:
        x = pixels_BHWC.permute(0, 3, 1, 2).float()
        return self.module(x * self.scale + self.shift)


def export_onnx(
    module: nn.Module,
    path: Path,
    *,
    input_shape: tuple[int, int, int],
    dynamic_batch: bool = False,
    metadata: Mapping[str, str] | None = None,
    input_name: str = "input",
    outputs: Sequence[OutputSpec] = (LOGITS,),
    bake_preprocess: tuple[Sequence[float], Sequence[float]] | None = None,
) -> None:
    """Write ``module`` (float32, NCHW input with 3 channels) to ``path``.

    ``input_shape`` is ``(batch, height, width)``; with ``dynamic_batch`` the batch of the file
    is free. ``bake_preprocess`` is ``(mean, std)`` of pixels scaled to 0..1: the input is then
    uint8 ``[B, H, W, 3]``. ``metadata`` goes into ``metadata_props``.

    Raises ToolchainError if torch cannot export the module or the result is not valid.
    """
    import onnx

    names = [output.name for output in outputs]
    batch, height, width = input_shape
    # A batch of one would be taken for a constant.
    batch = max(batch, 2) if dynamic_batch else batch
    example = torch.zeros(batch, 3, height, width)
    if bake_preprocess is not None:
        module = Uint8Input(module, *bake_preprocess)
        example = torch.zeros(batch, height, width, 3, dtype=torch.uint8)
    try:
        with quiet():
            model = _simplified(_traced(module.eval(), example, dynamic_batch, input_name, names))
            _pool_by_name(model)
            onnx.checker.check_model(model, full_check=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise ToolchainError(f"torch could not export the model to ONNX ({error}).") from error
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)


def _traced(
    module: nn.Module,
    example: Tensor,
    dynamic_batch: bool,
    input_name: str,
    output_names: Sequence[str],
) -> onnx.ModelProto:
    program = torch.onnx.export(
        module,
        (example,),
        dynamo=True,
        opset_version=OPSET,
        input_names=[input_name],
        output_names=list(output_names),
        dynamic_shapes=({0: torch.export.Dim("batch")},) if dynamic_batch else None,
        verbose=False,
    )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    return model


def _simplified(traced: onnx.ModelProto) -> onnx.ModelProto:
    import onnxsim

    scopes = _module_scopes(traced)
    model: onnx.ModelProto
    model, same = onnxsim.simplify(traced)
    if not same:
        raise ToolchainError("onnxsim changed what the model computes.")
    _name_by_module(model, scopes)
    return model


def _module_scopes(traced: onnx.ModelProto) -> dict[str, str]:
    """The path of the innermost module that made each value (onnxsim drops this)."""
    import ast

    scopes: dict[str, str] = {}
    for node in traced.graph.node:
        for entry in node.metadata_props:
            if entry.key == _SCOPES:
                names = ast.literal_eval(entry.value)
                # The last entry is the operator itself, the first ("") the root.
                path = names[-2] if len(names) > 1 else ""
                scopes.update(dict.fromkeys(node.output, path))
    # A node that torch's own optimizer made of several has no entry: it is where its readers are.
    links = OnnxLinks(traced.graph)
    for node in reversed(traced.graph.node):
        if not any(name in scopes for name in node.output):
            readers = (reader for name in node.output for reader in links.readers[name])
            path = _common_module([scopes.get(reader.output[0], "") for reader in readers])
            scopes.update(dict.fromkeys(node.output, path))
    return scopes


def _common_module(paths: Sequence[str]) -> str:
    """The innermost module that all of ``paths`` are in, "" for the root."""
    together = zip(*(path.split(".") for path in paths), strict=False)
    return ".".join(names[0] for names in takewhile(lambda names: len({*names}) == 1, together))


def _name_by_module(model: onnx.ModelProto, scopes: Mapping[str, str]) -> None:
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    fixed = {value.name for value in (*graph.input, *graph.output)} | weights
    renamed: dict[str, str] = {}
    seen: Counter[str] = Counter()
    for node in graph.node:
        path = next((scopes[o] for o in node.output if scopes.get(o)), "")
        if not path:  # a node that onnxsim fused: its weight still has the module's name
            owned = [i for i in node.input if i in weights and "." in i]
            path = owned[0].rpartition(".")[0] if owned else ""
        name = f"{path}/{node.op_type}".lstrip("/")
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"
        # Nodes are sorted: what makes a value comes before what reads it.
        node.input[:] = [renamed.get(name, name) for name in node.input]
        for index, output in enumerate(node.output):
            if output and output not in fixed:
                renamed[output] = node.name if index == 0 else f"{node.name}:{index}"
                node.output[index] = renamed[output]
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    graph.ClearField("value_info")
    for holder in (graph, model):  # torch's stack traces and empty labels
        holder.ClearField("metadata_props")
        holder.ClearField("doc_string")


def _pool_by_name(model: onnx.ModelProto) -> None:
    """Write a mean over height and width as GlobalAveragePool.

    onnxruntime pools in its blocked layout and in int8; a ReduceMean it runs in plain float.
    """
    links = OnnxLinks(model.graph)
    for node in model.graph.node:
        if node.op_type != "ReduceMean" or len(node.input) < 2:
            continue
        keeps = all(a.i == 1 for a in node.attribute if a.name == "keepdims")
        axes = links.value(node.input[1])
        if axes is None or not keeps:
            continue
        if sorted(axes.tolist()) in ([2, 3], [-2, -1]):
            node.op_type = "GlobalAveragePool"
            node.name = node.name.replace("ReduceMean", "GlobalAveragePool")
            del node.input[1:], node.attribute[:]


def cast_onnx_to_fp16(fp32_path: Path, fp16_path: Path) -> None:
    """Write ``fp32_path`` with float16 weights; inputs, outputs and arithmetic stay float32.

    onnxruntime expands the weights once, when it loads them: the CPU has hardly any float16
    kernels, and a model computed in float16 would spend its time in casts. Raises
    ToolchainError if a weight does not fit.
    """
    import numpy as np
    import onnx
    from onnx import numpy_helper

    model = onnx.load(fp32_path)
    casts: list[onnx.NodeProto] = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != onnx.TensorProto.FLOAT or values.size < _FP16_MIN_ELEMENTS:
            continue
        if np.abs(values).max() > _FP16_MAX:
            raise ToolchainError(f"Weight {tensor.name} does not fit into float16: use fp32.")
        name, half = tensor.name, f"{tensor.name};fp16"
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), half))
        casts.append(
            onnx.helper.make_node(
                "Cast", [half], [name], name=f"{name}/Cast", to=onnx.TensorProto.FLOAT
            )
        )
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, fp16_path)
