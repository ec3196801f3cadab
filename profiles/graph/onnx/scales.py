"""The scale and zero point of each quantized tensor of an .onnx graph.

The format has them as operands of what reads or writes the codes: DequantizeLinear and
onnxruntime's QLinear operators have those of an operand right behind it, and those of their result
in a place of their own, with the zero point behind the scale. mnv4-deploy writes those of integer
inputs and outputs to a file's metadata too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from mnv4_deploy.profiles.graph.onnx.external_weights import load_tensor
from mnv4_deploy.profiles.graph.onnx.links import OnnxLinks
from mnv4_deploy.profiles.records.graph import Tensor

# Positions of operands that are codes, and of the scale of the result, which is codes (-1: not).
_CODES: Mapping[str, tuple[tuple[int, ...], int]] = {
    "QuantizeLinear": ((), 1),
    "DequantizeLinear": ((0,), -1),
    **dict.fromkeys(("QLinearConv", "QLinearMatMul", "QLinearAdd", "QLinearMul"), ((0, 3), 6)),
    **dict.fromkeys(("QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax"), ((0,), 3)),
    **dict.fromkeys(("QLinearAveragePool", "QLinearGlobalAveragePool"), ((0,), 3)),
    "QLinearReduceMean": ((0,), 3),
    "QLinearWhere": ((1, 4), 7),
    "QLinearConcat": ((), 0),
    "QGemm": ((0, 3), 7),
}
# Anybody's operators of these names, in domains of their own, may be something else.
_DOMAINS = ("", "ai.onnx", "com.microsoft")
# Operators whose results are some of the codes of their first input.
_MOVES = frozenset(
    {
        *("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Split", "Slice", "Gather"),
        *("Identity", "Dropout", "Expand", "Tile", "DepthToSpace", "SpaceToDepth", "MaxPool"),
    }
)


def with_scales(path: Path, model: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors``, by name, each integer one with the scale that the file stores for it.

    ``model`` is the ``onnx.ModelProto`` of ``path``, one that onnxruntime runs. Where several
    operators have a scale for a tensor, the first counts: that makes the codes, which others can
    read with a scale of their own on purpose. Scales of blocks are left out. Raises ModelFileError
    for scales in another file that cannot be read.
    """
    stored = _Stored(path, model.graph)
    found: dict[str, Tensor] = {}
    for node in model.graph.node:
        for name, position in _codes(node):
            tensor = tensors.get(name)
            if name not in found and tensor is not None and _is_integer(tensor):
                scaled = stored.scaled(tensor, node, position)
                if scaled is not None:
                    found[name] = scaled
    for name, (scale, zero_point) in _described(model).items():
        if name not in found and name in tensors and _is_integer(tensors[name]):
            found[name] = replace(tensors[name], scale=(scale,), zero_point=(zero_point,))
    for node in model.graph.node:
        moves = node.domain in _DOMAINS and node.op_type in _MOVES
        source = found.get(node.input[0]) if moves else None
        if source is None or len(source.scale) != 1:
            continue
        for name in node.output:
            if name not in found and name in tensors and tensors[name].dtype == source.dtype:
                found[name] = replace(
                    tensors[name], scale=source.scale, zero_point=source.zero_point
                )
    return {**tensors, **found}


def _codes(node: Any) -> Iterator[tuple[str, int]]:
    """The tensors of codes that ``node`` has a scale for, with its position in the inputs."""
    if node.domain not in _DOMAINS:
        return
    operands, result = _CODES.get(node.op_type, ((), -1))
    if node.op_type == "QLinearConcat":
        operands = tuple(range(2, len(node.input), 3))
    for position in operands:
        yield node.input[position], position + 1
    if 0 <= result < len(node.input):
        yield node.output[0], result


def _is_integer(tensor: Tensor) -> bool:
    return tensor.dtype.startswith(("int", "uint"))


class _Stored:
    """The initializers and Constant nodes of the ``onnx.GraphProto`` of the model ``path``."""

    def __init__(self, path: Path, graph: Any) -> None:
        self._path = path
        self._tensors = OnnxLinks(graph).constants

    def scaled(self, tensor: Tensor, node: Any, position: int) -> Tensor | None:
        """``tensor`` with the scale and zero point that ``node`` has from ``position`` on."""
        scale, zero_point = (self._value(node, at) for at in (position, position + 1))
        if scale is None or zero_point is None or (scale.size != 1 and scale.ndim != 1):
            return None
        axis = _axis(node, len(tensor.shape)) if scale.size != 1 else 0
        return replace(
            tensor,
            scale=tuple(map(float, scale.ravel())),
            zero_point=tuple(map(int, zero_point.ravel())),
            axis=axis,
        )

    def _value(self, node: Any, position: int) -> Any:
        """The array at ``position`` of the inputs: empty where it is left out, None where it is
        not stored."""
        import numpy as np
        from onnx import numpy_helper

        name = node.input[position] if position < len(node.input) else ""
        if not name:
            return np.zeros(0)
        tensor = self._tensors.get(name)
        if tensor is None:
            return None
        load_tensor(self._path, tensor)
        return numpy_helper.to_array(tensor)


def _axis(node: Any, rank: int) -> int:
    """The axis of several scales of a tensor of ``rank`` dimensions."""
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    if node.op_type == "QLinearConv" or attributes.get("transB"):
        return 0
    own = node.op_type in ("QuantizeLinear", "DequantizeLinear")
    axis = int(attributes.get("axis", 1)) if own else rank - 1
    return axis % rank if -rank <= axis < rank else rank - 1


def _described(model: Any) -> dict[str, tuple[float, int]]:
    """Scale and zero point of inputs and outputs by the metadata, which anybody can write."""
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    found = {}
    for value in (*model.graph.input, *model.graph.output):
        with suppress(KeyError, ValueError):
            scale = float(metadata[f"{value.name}.scale"])
            if scale > 0:
                found[value.name] = scale, int(metadata.get(f"{value.name}.zero_point", 0))
    return found
