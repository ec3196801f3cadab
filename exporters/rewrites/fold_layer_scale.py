"""Fold a layer scale into the convolution before it.

Changes: ``gamma * conv(x)`` where the convolution feeds nothing else; run it after
``fold_batch_norm``, which removes the norm between the two.
Refuses: a layer scale behind anything but such a convolution.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mnv4_deploy.exporters.rewrites.base import (
    LayerGraph,
    RewriteReport,
    replace_layer,
    scale_output_channels,
)
from mnv4_deploy.models.networks.layers import LayerScale


def fold_layer_scale(module: nn.Module, example: Tensor) -> RewriteReport:
    layers = LayerGraph.trace(module, example)
    changed: list[str] = []
    refused: list[tuple[str, str]] = []
    for node in layers.layers(LayerScale):
        path = str(node.target)
        layer_scale = layers.layer(node)
        assert isinstance(layer_scale, LayerScale)
        found = layers.conv_feeding(node)
        if isinstance(found, str):
            refused.append((path, found))
        else:
            gamma = layer_scale.gamma.detach()
            scale_output_channels(found[1], gamma, torch.zeros_like(gamma))
            replace_layer(module, path, nn.Identity())
            changed.append(path)
    return RewriteReport("fold_layer_scale", tuple(changed), tuple(refused))
