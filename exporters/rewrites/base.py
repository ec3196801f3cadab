"""What every rewrite takes and gives.

A rewrite is a function ``(module, example) -> RewriteReport`` that changes ``module`` in place
(the pipeline hands it a copy) without changing what it computes: float64 outputs agree to a
relative error of 1e-9. It recognises structure in the traced graph, not class names, wherever
the structure is visible there, and reports what it changed and what it refused, with reasons.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from mnv4_deploy.models.networks.layers import LayerScale


@dataclass(frozen=True)
class RewriteReport:
    """Paths of the modules that one rewrite changed, and ``(path, reason)`` of its refusals.

    ``float_modules`` are modules of the rewritten network that lose more in 8 bits than they
    gain: int8 files for targets with float operators keep all that they compute in float.
    """

    name: str
    changed: tuple[str, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    float_modules: tuple[str, ...] = ()


Rewrite = Callable[[nn.Module, Tensor], RewriteReport]


class _LayerTracer(fx.Tracer):
    """Records torch's own layers, and the few of ours that rewrites know, as single nodes."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, LayerScale | ConvPlusMap) or super().is_leaf_module(
            m, module_qualified_name
        )


class ConvPlusMap(nn.Module):
    """A convolution plus a constant map ``[1, C, H, W]``, for biases that differ at the border."""

    bias_map: Tensor

    def __init__(self, conv: nn.Conv2d, bias_map: Tensor) -> None:
        super().__init__()
        self.conv = conv
        self.register_buffer("bias_map", bias_map)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x) + self.bias_map
        return y


@dataclass(frozen=True)
class LayerGraph:
    """The dataflow between the layers of a module, for one input shape."""

    root: nn.Module
    graph: fx.Graph
    example: Tensor

    @classmethod
    def trace(cls, root: nn.Module, example: Tensor) -> LayerGraph:
        graph = _LayerTracer().trace(root)
        for node in list(graph.nodes):
            if node.op == "call_module" and isinstance(
                root.get_submodule(str(node.target)), nn.Identity
            ):
                node.replace_all_uses_with(node.all_input_nodes[0])
                graph.erase_node(node)
        return cls(root, graph, example)

    @cached_property
    def _shapes(self) -> dict[fx.Node, torch.Size]:
        """Output shape of every node, from one real run (fake tensors take far longer)."""
        with torch.no_grad():
            ShapeProp(fx.GraphModule(self.root, self.graph)).propagate(self.example)
        return {
            node: node.meta["tensor_meta"].shape
            for node in self.graph.nodes
            if hasattr(node.meta.get("tensor_meta"), "shape")
        }

    def histogram(self) -> dict[str, int]:
        """How many layers and functions of each kind the graph calls, most frequent first."""
        kinds: Counter[str] = Counter()
        for node in self.graph.nodes:
            if node.op == "call_module":
                kinds[type(self.layer(node)).__name__] += 1
            elif node.op == "call_function" and node.target is not getattr:
                kinds[getattr(node.target, "__name__", str(node.target))] += 1
            elif node.op == "call_method":
                kinds[str(node.target)] += 1
        return dict(kinds.most_common())

    def layers(self, kind: type[nn.Module] | tuple[type[nn.Module], ...]) -> Iterator[fx.Node]:
        for node in self.graph.nodes:
            if isinstance(self.layer(node), kind):
                yield node

    def layer(self, node: object) -> nn.Module | None:
        """The layer a node calls, or None for functions, methods, inputs and outputs."""
        if isinstance(node, fx.Node) and node.op == "call_module":
            return self.root.get_submodule(str(node.target))
        return None

    def calls(self, node: fx.Node) -> int:
        """How often the graph calls this node's layer; a shared layer must not be changed."""
        return sum(n.op == "call_module" and n.target == node.target for n in self.graph.nodes)

    def conv_feeding(self, node: fx.Node) -> tuple[str, nn.Conv2d] | str:
        """The convolution whose only use is ``node``'s layer, or why there is none."""
        source = node.all_input_nodes[0]
        conv = self.layer(source)
        if not isinstance(conv, nn.Conv2d):
            return "its input is not a convolution"
        if len(source.users) > 1:
            return "the convolution before it has other users"
        if self.calls(source) > 1 or self.calls(node) > 1:
            return "the layer is called more than once"
        return str(source.target), conv

    def shape(self, node: fx.Node) -> torch.Size:
        return self._shapes[node]


def reads_only_shape(node: fx.Node) -> bool:
    return node.target is getattr and node.args[1] == "shape"


def inputs_of(root: nn.Module, example: Tensor, kind: type[nn.Module]) -> dict[str, list[Tensor]]:
    """What each module of one kind gets, one tensor for each time that it is called."""
    layers = {path: layer for path, layer in root.named_modules() if isinstance(layer, kind)}
    found: dict[str, list[Tensor]] = {path: [] for path in layers}
    handles = [
        layer.register_forward_pre_hook(lambda _, args, path=path: found[path].append(args[0]))
        for path, layer in layers.items()
    ]
    if handles:
        with torch.no_grad():
            root(example)
    for handle in handles:
        handle.remove()
    return found


def map_sizes(
    root: nn.Module, example: Tensor, kind: type[nn.Module]
) -> dict[str, tuple[int, int]]:
    """Height and width of the last map ``[B, C, H, W]`` that each module of one kind gets."""
    found = inputs_of(root, example, kind)
    return {path: (x[-1].shape[-2], x[-1].shape[-1]) for path, x in found.items() if x}


def replace_layer(root: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, layer)


def add_to_bias(layer: nn.Conv2d | nn.Linear, shift: Tensor) -> None:
    layer.bias = nn.Parameter(shift.clone() if layer.bias is None else layer.bias + shift)


def scale_output_channels(conv: nn.Conv2d, scale: Tensor, shift: Tensor) -> None:
    """Make ``conv`` compute ``scale * conv(x) + shift`` (both ``[C_out]``)."""
    with torch.no_grad():
        bias = torch.zeros_like(scale) if conv.bias is None else conv.bias
        conv.bias = nn.Parameter(bias * scale + shift)
        # A new parameter, because another layer may share the old one.
        conv.weight = nn.Parameter(conv.weight * scale.view(-1, 1, 1, 1))


def norm_as_affine(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift ``[C]`` of a batch norm in evaluation mode."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a batch norm without running statistics is not affine")
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    if norm.bias is not None:
        shift = shift + norm.bias
    return scale.detach(), shift.detach()
