"""Layer norms as few operators that XNNPACK takes.

``fold_layer_norm`` moves gamma and beta into the linear layers that read the norm: what is left
subtracts the mean and divides by the deviation. ``layer_norm_for_tflite`` writes that as
operators that XNNPACK has in float; the converter's own form has six more. onnxruntime has a
kernel for the whole norm, gamma and beta included, so its files need neither.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mnv4_deploy.exporters.rewrites.base import (
    LayerGraph,
    RewriteReport,
    add_to_bias,
    replace_layer,
)


def fold_layer_norm(module: nn.Module, example: Tensor) -> RewriteReport:
    """Changes: a norm all of whose readers are linear layers.

    Refuses: a norm with any other reader, or one that is called twice.
    """
    layers = LayerGraph.trace(module, example)
    changed: list[str] = []
    refused: list[tuple[str, str]] = []
    for node in layers.layers(nn.LayerNorm):
        path = str(node.target)
        norm = layers.layer(node)
        assert isinstance(norm, nn.LayerNorm)
        readers = [layers.layer(user) for user in node.users]
        linears = [reader for reader in readers if isinstance(reader, nn.Linear)]
        if not norm.elementwise_affine:
            continue
        if len(norm.normalized_shape) > 1:
            refused.append((path, "it normalises more than the last axis"))
        elif len(linears) < len(readers):
            refused.append((path, "something other than linear layers reads it"))
        elif any(layers.calls(n) > 1 for n in (node, *node.users)):
            refused.append((path, "the layer is called more than once"))
        else:
            for linear in linears:
                _fold_into(linear, norm)
            plain = nn.LayerNorm(norm.normalized_shape, eps=norm.eps, elementwise_affine=False)
            replace_layer(module, path, plain)
            changed.append(path)
    return RewriteReport("fold_layer_norm", tuple(changed), tuple(refused))


def _fold_into(linear: nn.Linear, norm: nn.LayerNorm) -> None:
    with torch.no_grad():
        if norm.bias is not None:
            add_to_bias(linear, linear.weight @ norm.bias)
        # A new parameter, because another layer may share the old one.
        linear.weight = nn.Parameter(linear.weight * norm.weight)


class CentredLayerNorm(nn.Module):
    """``nn.LayerNorm`` over the last axis, written out."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.eps = norm.eps
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(dim=-1, keepdim=True)
        variance = (centred * centred).mean(dim=-1, keepdim=True)
        y = centred * torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            y = y * self.weight
        return y if self.bias is None else y + self.bias


def layer_norm_for_tflite(module: nn.Module, example: Tensor) -> RewriteReport:
    """Changes: every norm over the last axis; int8 files keep it in float.

    Squares of 8-bit values and the root of their mean have a range of their own for each token.
    Refuses: a norm over several axes.
    """
    del example
    changed: list[str] = []
    refused: list[tuple[str, str]] = []
    for path, layer in list(module.named_modules()):
        if isinstance(layer, nn.LayerNorm):
            if len(layer.normalized_shape) > 1:
                refused.append((path, "it normalises more than the last axis"))
                continue
            replace_layer(module, path, CentredLayerNorm(layer))
            changed.append(path)
    return RewriteReport(
        "layer_norm_for_tflite", tuple(changed), tuple(refused), float_modules=tuple(changed)
    )
