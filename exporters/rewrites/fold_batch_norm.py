"""Fold a batch norm into the convolution before it.

Changes: ``BN(conv(x))`` where the convolution feeds nothing else.
Refuses: a norm behind anything else (an attention's pre-norm is ``fold_pre_norm``'s), a
convolution with other users, a layer that is called twice, a norm without running statistics.
"""

from __future__ import annotations

from torch import Tensor, nn

from mnv4_deploy.exporters.rewrites.base import (
    LayerGraph,
    RewriteReport,
    norm_as_affine,
    replace_layer,
    scale_output_channels,
)


def fold_batch_norm(module: nn.Module, example: Tensor) -> RewriteReport:
    layers = LayerGraph.trace(module, example)
    changed: list[str] = []
    refused: list[tuple[str, str]] = []
    for node in layers.layers(nn.BatchNorm2d):
        path = str(node.target)
        norm = layers.layer(node)
        assert isinstance(norm, nn.BatchNorm2d)
        found = layers.conv_feeding(node)
        if isinstance(found, str):
            refused.append((path, found))
        elif norm.running_mean is None:
            refused.append((path, "it keeps no running statistics"))
        else:
            scale_output_channels(found[1], *norm_as_affine(norm))
            replace_layer(module, path, nn.Identity())
            changed.append(path)
    return RewriteReport("fold_batch_norm", tuple(changed), tuple(refused))
