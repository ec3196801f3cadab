"""What the ways of recovery share: a folded network, and its layers with weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx, nn

from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.exporters.rewrites.base import ConvPlusMap, LayerGraph
from mnv4_deploy.exporters.rewrites.fold_batch_norm import fold_batch_norm
from mnv4_deploy.exporters.rewrites.fold_layer_scale import fold_layer_scale
from mnv4_deploy.exporters.rewrites.fold_pre_norm import fold_pre_norm

Weighted = nn.Conv2d | nn.Linear
_FOLDS = (fold_batch_norm, fold_layer_scale, fold_pre_norm)
# What only moves values: in int8 the result has the range of what was moved.
_MOVES = frozenset(
    {
        *("flatten", "reshape", "view", "permute", "transpose", "squeeze", "unsqueeze"),
        *("contiguous", "getitem", "split", "chunk", "pad", "dropout", "max_pool2d"),
    }
)
_MOVING_LAYERS = (nn.Flatten, nn.Dropout, nn.ZeroPad2d, nn.MaxPool2d, nn.Identity)
# Activations that quantizers fuse into the layer before: only their result is rounded.
_FUSED_LAYERS = (nn.ReLU, nn.ReLU6)


def folded(module: nn.Module, example: Tensor) -> LayerGraph:
    """Fold the norms and scales of ``module`` in place, as export will; its dataflow after."""
    with torch.no_grad():
        for fold in _FOLDS:
            fold(module.eval(), example)
        return LayerGraph.trace(module, example)


def weighted(layer: nn.Module | None) -> Weighted | None:
    """The convolution or linear layer that ``layer`` is, or contains beside a border map."""
    inner = layer.conv if isinstance(layer, ConvPlusMap) else layer
    return inner if isinstance(inner, nn.Conv2d | nn.Linear) else None


def weighted_nodes(layers: LayerGraph) -> dict[fx.Node, Weighted]:
    """The layers with weights that are called once, in the order they run."""
    found = {node: weighted(layers.layer(node)) for node in layers.graph.nodes}
    return {
        node: layer
        for node, layer in found.items()
        if layer is not None and layers.calls(node) == 1
    }


def kind_of(layers: LayerGraph, node: fx.Node) -> str:
    """The class of the layer that ``node`` calls, else the name of the function or method."""
    layer = layers.layer(node)
    return (
        str(getattr(node.target, "__name__", node.target))
        if layer is None
        else type(layer).__name__
    )


def is_rounded(layers: LayerGraph, node: fx.Node) -> bool:
    """Whether the int8 files round what ``node`` makes to 8 bits of a range of its own."""
    if node.op in ("output", "get_attr"):
        return False
    layer = layers.layer(node)
    if isinstance(layer, _MOVING_LAYERS) or (layer is None and kind_of(layers, node) in _MOVES):
        return False
    readers = [layers.layer(user) for user in node.users]
    return not (len(readers) == 1 and isinstance(readers[0], _FUSED_LAYERS))


def channels_last(values: Tensor, layer: Weighted) -> Tensor:
    """``[..., C]`` of what ``layer`` makes."""
    return values.movedim(1, -1) if isinstance(layer, nn.Conv2d) else values


def demand_images(count: int) -> None:
    """Raises UnsupportedError where ``count`` is 0."""
    if not count:
        raise UnsupportedError("Recovering accuracy needs calibration images: there were none.")


def run_together(
    layers: LayerGraph, batches: list[Tensor], visit: Callable[[fx.Node, list[Tensor]], None]
) -> None:
    """Run the network on all ``batches`` one layer at a time.

    ``visit`` gets each node that makes a tensor with its value for every batch, and may change
    the values in place before the next layer reads them. A value is dropped after its last use.
    """
    runs = [
        fx.Interpreter(fx.GraphModule(layers.root, layers.graph), garbage_collect_values=False)
        for _ in batches
    ]
    last_use: dict[fx.Node, fx.Node] = {}
    for node in layers.graph.nodes:
        last_use.update(dict.fromkeys(node.all_input_nodes, node))
    with torch.no_grad():
        for node in layers.graph.nodes:
            if node.op == "output":
                break
            for run, batch in zip(runs, batches, strict=True):
                run.env[node] = batch.clone() if node.op == "placeholder" else run.run_node(node)
            values = [run.env[node] for run in runs]
            if isinstance(values[0], Tensor) and values[0].is_floating_point():
                visit(node, values)
            for source in node.all_input_nodes:
                if last_use[source] is node:
                    for run in runs:
                        run.env.pop(source, None)
