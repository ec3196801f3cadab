"""Scales of inputs and outputs, by which 8-bit codes are real numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mnv4_deploy.profiles.records.files import FileFacts, TensorFacts


def onnx_quantization(metadata: Mapping[str, str], name: str) -> tuple[float, int]:
    """Scale and zero point of an input or output by name; scale 0 where none is given.

    From the file's metadata (``<name>.scale``, ``<name>.zero_point``, see ``to_onnx/io_types``).
    Raises ValueError for metadata that are no numbers.
    """
    return float(metadata.get(f"{name}.scale", 0)), int(metadata.get(f"{name}.zero_point", 0))


def boundary(facts: FileFacts) -> tuple[tuple[TensorFacts, ...], tuple[TensorFacts, ...]]:
    """The inputs and outputs of a file with the scales that its metadata tell."""
    if facts.format != "onnx":
        return facts.inputs, facts.outputs
    inputs, outputs = (
        tuple(_described(tensor, facts.metadata) for tensor in side)
        for side in (facts.inputs, facts.outputs)
    )
    return inputs, outputs


def _described(tensor: TensorFacts, metadata: Mapping[str, str]) -> TensorFacts:
    scale, zero_point = onnx_quantization(metadata, tensor.name)
    if scale <= 0:
        return tensor
    return replace(tensor, scale=(scale,), zero_point=(zero_point,))


def scale_of(tensor: TensorFacts) -> tuple[float, int]:
    """Scale and zero point; scale 0 for none. Several scales are not one of the tensor."""
    if len(tensor.scale) != 1:
        return 0.0, 0
    return tensor.scale[0], (*tensor.zero_point, 0)[0]


def dequantized(values: npt.NDArray[Any], tensor: TensorFacts) -> npt.NDArray[Any]:
    """Real values in float32; integers without a scale (counts, indices) as they are."""
    scale, zero_point = scale_of(tensor)
    if values.dtype.kind == "f":
        return values.astype(np.float32)
    if scale == 0:
        return values.astype(np.float32) if values.dtype.itemsize == 1 else values.copy()
    return (values.astype(np.float32) - zero_point) * np.float32(scale)
