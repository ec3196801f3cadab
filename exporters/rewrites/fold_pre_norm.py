"""Fold a norm forward into the convolutions or linear layers that read it.

(An attention's pre-norm, a classifier's norm.)

``conv(s*x + t)`` is ``conv'(x) + b`` with the scale ``s`` in the weights. Where the convolution
pads with zeros, the padding is not ``t``: the shift then reaches the border through fewer taps,
and ``b`` is not one number per channel but a map ``[1, C, H, W]``. A map with an all-equal
interior costs a small addition; one bias for all positions would be wrong at the border. If the
padded convolution feeds only a 1x1 convolution (K and V behind their depthwise), the map moves
behind that one, where it is smallest.

Changes: a batch norm all of whose readers are convolutions or linear layers.
Refuses: a norm with any other reader, or one that is called twice.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from mnv4_deploy.exporters.rewrites.base import (
    ConvPlusMap,
    LayerGraph,
    RewriteReport,
    add_to_bias,
    norm_as_affine,
    reads_only_shape,
    replace_layer,
)


def fold_pre_norm(module: nn.Module, example: Tensor) -> RewriteReport:
    layers = LayerGraph.trace(module, example)
    changed: list[str] = []
    refused: list[tuple[str, str]] = []
    for node in layers.layers((nn.BatchNorm1d, nn.BatchNorm2d)):
        path = str(node.target)
        norm = layers.layer(node)
        assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
        readers = [user for user in node.users if not reads_only_shape(user)]
        # A linear layer's features are the last axis, a norm's the second.
        kinds = (nn.Conv2d,) if len(layers.shape(node)) > 2 else (nn.Linear,)
        if not all(type(layers.layer(reader)) in kinds for reader in readers):
            refused.append((path, "something other than convolutions reads it"))
        elif any(layers.calls(n) > 1 for n in (node, *readers)):
            refused.append((path, "the layer is called more than once"))
        elif norm.running_mean is None:
            refused.append((path, "it keeps no running statistics"))
        else:
            for reader in readers:
                _fold_into(module, layers, reader, *norm_as_affine(norm))
            replace_layer(module, path, nn.Identity())
            changed.append(path)
    return RewriteReport("fold_pre_norm", tuple(changed), tuple(refused))


def _fold_into(
    module: nn.Module, layers: LayerGraph, reader: fx.Node, scale: Tensor, shift: Tensor
) -> None:
    conv = layers.layer(reader)
    if isinstance(conv, nn.Linear):
        add_to_bias(conv, conv.weight @ shift)
        conv.weight = nn.Parameter(conv.weight * scale)
        return
    assert isinstance(conv, nn.Conv2d)
    height, width = layers.shape(reader.all_input_nodes[0])[-2:]
    with torch.no_grad():
        shifted = shift.view(1, -1, 1, 1).expand(1, -1, height, width)
        shift_map = _without_bias(conv)(shifted)
        per_group = scale.view(conv.groups, -1)
        per_output = per_group.repeat_interleave(conv.out_channels // conv.groups, dim=0)
        # A new parameter, because another layer may share the old one.
        conv.weight = nn.Parameter(conv.weight * per_output[:, :, None, None])
        if not any(conv.padding):
            add_to_bias(conv, shift_map[0, :, 0, 0])
            return
        path = str(reader.target)
        following = next(iter(reader.users), reader)
        pointwise = layers.layer(following)
        if (
            len(reader.users) == 1
            and layers.calls(following) == 1
            and isinstance(pointwise, nn.Conv2d)
            and pointwise.kernel_size == (1, 1)
            and not any(pointwise.padding)
            and pointwise.stride == (1, 1)
        ):
            path, conv = str(following.target), pointwise
            shift_map = _without_bias(pointwise)(shift_map)
        # The interior goes into the bias, so that the map is zero except at the border and
        # quantizes to the border's own range (litert-torch adds the two up again).
        interior = shift_map[:, :, shift_map.shape[2] // 2, shift_map.shape[3] // 2]
        add_to_bias(conv, interior[0])
        border = shift_map - interior[:, :, None, None]
        replace_layer(module, path, ConvPlusMap(conv, border))


def _without_bias(conv: nn.Conv2d) -> nn.Conv2d:
    plain = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        stride=conv.stride,  # type: ignore[arg-type]
        padding=conv.padding,  # type: ignore[arg-type]
        dilation=conv.dilation,  # type: ignore[arg-type]
        groups=conv.groups,
        bias=False,
        padding_mode=conv.padding_mode,
    )
    plain.weight = nn.Parameter(conv.weight.detach().clone())
    return plain
