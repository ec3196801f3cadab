"""The quantization of tensors, where it makes their codes real numbers."""

from __future__ import annotations

from mnv4_deploy.layers.layer import Quantization
from mnv4_deploy.profiles.records.files import TensorFacts
from mnv4_deploy.profiles.records.graph import ModelGraph, Tensor

INTEGERS = frozenset({"int8", "uint8", "int16", "uint16"})


def quantizations(graph: ModelGraph) -> dict[int, Quantization]:
    """The integer tensors of ``graph`` that have one scale, by index."""
    found = ((index, quantization_of(tensor)) for index, tensor in enumerate(graph.tensors))
    return {index: own for index, own in found if own is not None}


def quantization_of(tensor: Tensor | TensorFacts) -> Quantization | None:
    """None for a tensor that is no integer or has several scales."""
    if len(tensor.scale) != 1 or tensor.scale[0] <= 0 or tensor.dtype not in INTEGERS:
        return None
    return Quantization(tensor.scale[0], (*tensor.zero_point, 0)[0], tensor.dtype)
