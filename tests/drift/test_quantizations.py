"""Which tensors count as codes of real numbers."""

from __future__ import annotations

from mnv4_deploy.layers.layer import Quantization
from mnv4_deploy.layers.quantizations import quantizations
from mnv4_deploy.profiles.records.graph import ModelGraph, Tensor


def test_tensors_with_one_scale_are_codes() -> None:
    tensors = (
        Tensor("x", (1, 4), "int8", scale=(0.5,), zero_point=(3,)),
        Tensor("no zero point", (1, 4), "uint8", scale=(0.25,)),
        Tensor("several", (2, 4), "int8", constant=True, scale=(0.5, 0.25), zero_point=(0, 0)),
        Tensor("not quantized", (1, 4), "int8"),
        Tensor("empty range", (1, 4), "int8", scale=(0.0,), zero_point=(0,)),
        Tensor("bias", (2,), "int32", constant=True, scale=(0.125,), zero_point=(0,)),
        Tensor("float", (1, 4), "float32", scale=(0.5,), zero_point=(0,)),
    )
    for file_format in ("tflite", "onnx"):
        assert quantizations(ModelGraph(file_format, tensors, (), (), ())) == {
            0: Quantization(0.5, 3, "int8"),
            1: Quantization(0.25, 0, "uint8"),
        }
