"""Which tensors of a network can have their channels scaled, and only together."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field

import torch
from torch import fx

from mnv4_deploy.exporters.recovery.network import Weighted, kind_of
from mnv4_deploy.exporters.rewrites.base import ConvPlusMap, LayerGraph, reads_only_shape

_RELU6S = frozenset({"ReLU6", "relu6"})
_CHANNELWISE = frozenset(
    {
        *("ReLU", "relu", "Dropout", "dropout", "contiguous", "ZeroPad2d", "MaxPool2d"),
        *("AvgPool2d", "AdaptiveAvgPool2d", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"),
    }
)


@dataclass
class ChannelGroup:
    """Tensors of one chain of activations, poolings and additions.

    ``makers`` and ``readers`` are the layers with weights at its ends, ``clipped`` the inputs of
    its ReLU6. ``reason`` says why its channels cannot be scaled, "" if they can.
    """

    makers: list[fx.Node] = field(default_factory=list)
    readers: list[fx.Node] = field(default_factory=list)
    tensors: list[fx.Node] = field(default_factory=list)
    clipped: list[fx.Node] = field(default_factory=list)
    reason: str = ""

    def absorb(self, other: ChannelGroup) -> None:
        self.makers += other.makers
        self.readers += other.readers
        self.tensors += other.tensors
        self.clipped += other.clipped
        self.reason = self.reason or other.reason


def find_groups(layers: LayerGraph, own: dict[fx.Node, Weighted]) -> list[ChannelGroup]:
    """The groups that have a maker, in the order they run."""
    group_of: dict[fx.Node, ChannelGroup] = {}

    def join(node: fx.Node, sources: list[fx.Node]) -> ChannelGroup:
        group = ChannelGroup(tensors=[node])
        for other in {id(group_of[s]): group_of[s] for s in sources}.values():
            group.absorb(other)
        group_of.update(dict.fromkeys(group.tensors, group))
        return group

    def refuse(nodes: list[fx.Node], reason: str) -> None:
        for node in nodes:
            group_of[node].reason = group_of[node].reason or reason

    for node in layers.graph.nodes:
        sources = [source for source in node.all_input_nodes if source in group_of]
        kind = kind_of(layers, node)
        if reads_only_shape(node):
            continue
        if node in own:
            group_of[sources[0]].readers.append(node)
            group = join(node, [])
            group.makers.append(node)
            if isinstance(layers.layer(node), ConvPlusMap):
                group.reason = "a map is added to its result"
        elif _is_sum(layers, node, group_of) or _is_channelwise(layers, node, kind):
            join(node, sources)
        elif kind in _RELU6S:
            join(node, sources).clipped.append(sources[0])
        else:
            refuse(sources, f"{kind} reads it" if node.op != "output" else "it is the result")
            join(node, []).reason = f"it comes from {kind}"
    unique = {id(group): group for group in group_of.values() if group.makers}
    for group in unique.values():
        if not group.readers:
            group.reason = group.reason or "no layer with weights reads it"
    return list(unique.values())


def _is_sum(layers: LayerGraph, node: fx.Node, group_of: dict[fx.Node, ChannelGroup]) -> bool:
    """An addition of two tensors of one shape (a constant would have to be scaled too)."""
    if node.target not in (operator.add, operator.iadd, torch.add) or len(node.args) != 2:
        return False
    operands = [a for a in node.args if isinstance(a, fx.Node)]
    return (
        len(operands) == 2
        and not node.kwargs
        and all(a in group_of for a in operands)
        and layers.shape(operands[0]) == layers.shape(operands[1])
    )


def _is_channelwise(layers: LayerGraph, node: fx.Node, kind: str) -> bool:
    """Whether scaling a channel before ``node`` is scaling the same one behind it."""
    if kind in ("flatten", "Flatten"):
        before, after = layers.shape(node.all_input_nodes[0]), layers.shape(node)
        return len(after) == 2 and after[1] == before[1]
    if kind == "pad":
        return len(node.args) == 2 and not node.kwargs  # with zeros
    return kind in _CHANNELWISE
