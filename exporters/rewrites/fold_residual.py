"""Fold the residual around a depthwise convolution into its centre tap.

``x + conv(x)`` is ``conv'(x)`` with 1 added to the weight that each channel has for its own
position: one pass over the map fewer, and in int8 one rounding fewer.

Changes: a module that does nothing but add its input to a depthwise convolution of it, which
must have stride 1, odd sides, and zero padding that keeps the size. The convolution takes the
module's place. Run it after ``fold_batch_norm``, which removes the norm between the two.
Refuses: nothing; any other sum is none of its business.
"""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx, nn

from mnv4_deploy.exporters.rewrites.base import LayerGraph, RewriteReport, replace_layer

_ADDITIONS = (operator.add, operator.iadd, torch.add)


def fold_residual(module: nn.Module, example: Tensor) -> RewriteReport:
    layers = LayerGraph.trace(module, example)
    owned: dict[str, list[fx.Node]] = {}
    for node in layers.graph.nodes:
        for path in node.meta.get("nn_module_stack", {}):
            owned.setdefault(path, []).append(node)
    changed: list[str] = []
    for path, nodes in owned.items():
        conv = _only_convolution(layers, nodes)
        if path and conv is not None:
            replace_layer(module, path, with_identity(conv))
            changed.append(path)
    return RewriteReport("fold_residual", tuple(changed))


def with_identity(conv: nn.Conv2d) -> nn.Conv2d:
    """``conv``, depthwise and of odd sides, changed to compute ``x + conv(x)``."""
    centre = (conv.kernel_size[0] // 2, conv.kernel_size[1] // 2)
    weight = conv.weight.detach().clone()
    weight[:, 0, centre[0], centre[1]] += 1
    # A new parameter, because another layer may share the old one.
    conv.weight = nn.Parameter(weight)
    return conv


def _only_convolution(layers: LayerGraph, nodes: list[fx.Node]) -> nn.Conv2d | None:
    """The convolution of a module that is made of ``nodes``, if that and the sum are all."""
    if len(nodes) != 2 or nodes[1].target not in _ADDITIONS:
        return None
    called, addition = nodes
    conv = layers.layer(called)
    if type(conv) is not nn.Conv2d or not _keeps_positions(conv) or layers.calls(called) > 1:
        return None
    source = called.all_input_nodes[0]
    if list(called.users) != [addition] or {*addition.all_input_nodes} != {called, source}:
        return None
    return conv if len(addition.args) == 2 and not addition.kwargs else None


def _keeps_positions(conv: nn.Conv2d) -> bool:
    return (
        conv.groups == conv.in_channels == conv.out_channels
        and conv.stride == (1, 1)
        and conv.padding_mode == "zeros"
        and all(side % 2 for side in conv.kernel_size)
        and conv.padding
        == tuple(
            dilation * (side // 2)
            for side, dilation in zip(conv.kernel_size, conv.dilation, strict=True)
        )
    )
