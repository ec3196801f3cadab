"""Operators of an ONNX file that onnxruntime runs faster in float than in int8."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mnv4_deploy.profiles.graph.onnx.links import OnnxLinks
from mnv4_deploy.profiles.ort.float_reasons import image_inputs

if TYPE_CHECKING:
    import onnx


def first_convolutions(model: onnx.ModelProto) -> Iterator[str]:
    """Convolutions of a float image, each with the activation behind it.

    In int8 the image has to be quantized and transposed, and the kernel, which works on whole
    groups of channels, makes little of three. AVX2, 224 px, with what must be converted before
    or behind: 32 channels of Conv-S 890 us in int8, 640 us in float; 8 of EfficientViT-M0 510
    and 260.
    """
    images, links = image_inputs(model.graph), OnnxLinks(model.graph)
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[0] in images:
            yield node.name
            if links.reader_kinds(node.output[0]) in (["Relu"], ["Clip"]):
                yield links.readers[node.output[0]][0].name


def softmax_products(model: onnx.ModelProto) -> list[str]:
    """Products of a softmax's result.

    In int8 they are no faster: quantizing the softmax's many results takes what the product
    gains (Hybrid-M against stock, AVX2: 0.92 in float, 0.93 in int8).
    """
    softmaxes = {n.output[0] for n in model.graph.node if n.op_type == "Softmax"}
    return [n.name for n in model.graph.node if n.op_type == "MatMul" and n.input[0] in softmaxes]
