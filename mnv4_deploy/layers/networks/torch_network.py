"""The intermediate tensors of a PyTorch model: its traced graph, run node by node.

The model first gets the rewrites that its export to ``format_`` would get. They do not change
what it computes (to 1e-9 in float64), and afterwards its layers are those of exported files:
norms and layer scales are in the weights.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor as TorchTensor
from torch import fx, nn

from mnv4_deploy.exporters.rewrites.chains import rewrite
from mnv4_deploy.images.preprocessing import normalize
from mnv4_deploy.images.records import Pixels
from mnv4_deploy.layers.find_layers import find_layers
from mnv4_deploy.layers.layer import (
    Array,
    Disturbed,
    Format,
    Isolated,
    NetworkLayer,
    Reweighed,
    Values,
    Weights,
)
from mnv4_deploy.models.records import OutputSpec, Preprocessing
from mnv4_deploy.profiles.join.modules import canonical
from mnv4_deploy.profiles.records.graph import ModelGraph, Operator, Tensor
from mnv4_deploy.sessions.outputs import named


class TorchNetwork:
    format: Format = "torch"

    def __init__(
        self,
        module: nn.Module,
        outputs: Sequence[OutputSpec],
        size: tuple[int, int],
        format_: Literal["onnx", "tflite"],
    ) -> None:
        self._original = module
        self._names = [output.name for output in outputs]
        self._module = rewrite(module, format_, size).module
        graph = fx.Tracer().trace(self._module)
        for node in list(graph.nodes):
            if node.op == "call_module" and isinstance(self._layer(node), nn.Identity):
                node.replace_all_uses_with(node.all_input_nodes[0])
                graph.erase_node(node)
        self._nodes = [node for node in graph.nodes if node.op != "output"]
        (last,) = [node for node in graph.nodes if node.op == "output"]
        self._runner = fx.Interpreter(fx.GraphModule(self._module, graph), False)
        index = {node.name: i for i, node in enumerate(self._nodes)}
        with torch.inference_mode():
            example = self._execute({0: torch.zeros(1, 3, *size)})
        ops = [n for n in self._nodes if n.op.startswith("call_")]
        self.graph = ModelGraph(
            "onnx",
            tuple(_tensor(node, example[index[node.name]]) for node in self._nodes),
            tuple(
                Operator(
                    i,
                    self._kind(node),
                    node.name,
                    tuple(index[n.name] for n in node.all_input_nodes),
                    (index[node.name],),
                )
                for i, node in enumerate(ops)
            ),
            (0,),
            tuple(index[n.name] for n in last.all_input_nodes),
        )
        self._ops = ops
        self.layers = find_layers(self.graph, [_module_path(n) for n in ops])
        self.inputs = self.graph.inputs
        self.outputs = self.graph.outputs

    def _layer(self, node: fx.Node) -> nn.Module:
        return self._module.get_submodule(str(node.target))

    def _kind(self, node: fx.Node) -> str:
        if node.op == "call_module":
            return type(self._layer(node)).__name__
        return str(getattr(node.target, "__name__", node.target))

    def _execute(
        self,
        given: Mapping[int, TorchTensor],
        cut: Mapping[int, TorchTensor] | None = None,
        noise: Mapping[int, TorchTensor] | None = None,
    ) -> list[Any]:
        """The value of every node; the readers of a node in ``cut`` read that value instead.

        Those of a node in ``noise`` read the sum, which is also left in the runner's ``env``.
        """
        results: list[Any] = []
        self._runner.env = {}
        for i, node in enumerate(self._nodes):
            result = given[i] if i in given else self._runner.run_node(node)
            results.append(result)
            read = result if cut is None or i not in cut else cut[i]
            self._runner.env[node] = read if noise is None or i not in noise else read + noise[i]
        return results

    def feed(self, pixels: Pixels, spec: Preprocessing) -> Values:
        return {0: np.ascontiguousarray(normalize(pixels, spec).transpose(2, 0, 1)[None])}

    def plain(self, pixels: Pixels, spec: Preprocessing) -> tuple[Array, ...]:
        with torch.inference_mode():
            result = self._original(torch.from_numpy(self.feed(pixels, spec)[0]))
        return tuple(values.numpy() for values in named(result, self._names).values())

    def run(self, feed: Values) -> dict[int, Array]:
        with torch.inference_mode():
            values = self._execute({0: torch.from_numpy(feed[0])})
        tensors = {*self.outputs, *(layer.output for layer in self.layers)}
        return {t: values[t].numpy() for t in tensors}

    def isolate(
        self,
        cut: Mapping[int, Array],
        outputs: Sequence[int],
        weights: Mapping[int, Array] | None = None,
    ) -> Isolated:
        examples = dict(cut)

        def run(values: Values) -> dict[int, Array]:
            tensors = {t: torch.from_numpy(np.ascontiguousarray(values[t])) for t in examples}
            with self._reweigh(weights or {}), torch.inference_mode():
                found = self._execute({0: torch.from_numpy(values[0])}, tensors)
            return {t: found[t].numpy() for t in outputs}

        return run

    def disturb(self, examples: Mapping[int, Array]) -> Disturbed:
        del examples  # nothing is compiled for them

        def run(feed: Values, noise: Values) -> tuple[Array, ...]:
            tensors = {t: torch.from_numpy(np.ascontiguousarray(v)) for t, v in noise.items()}
            with torch.inference_mode():
                self._execute({0: torch.from_numpy(feed[0])}, noise=tensors)
            return tuple(self._runner.env[self._nodes[t]].numpy() for t in self.outputs)

        return run

    def reweighed(self, weights: Mapping[int, Array]) -> Reweighed:
        def run(feed: Values) -> tuple[Array, ...]:
            with self._reweigh(weights), torch.inference_mode():
                values = self._execute({0: torch.from_numpy(feed[0])})
            return tuple(values[t].numpy() for t in self.outputs)

        return run

    @contextlib.contextmanager
    def _reweigh(self, weights: Mapping[int, Array]) -> Iterator[None]:
        chosen = [
            (_weight(self._layer(self._ops[layer.op])), torch.from_numpy(weights[layer.output]))
            for layer in self.layers
            if layer.output in weights
        ]
        own = [weight.data for weight, _ in chosen]
        try:
            for weight, other in chosen:
                weight.data = other
            yield
        finally:
            for (weight, _), data in zip(chosen, own, strict=True):
                weight.data = data

    def weights(self, layer: NetworkLayer) -> Weights | None:
        node = self._ops[layer.op]
        module = self._layer(node) if node.op == "call_module" else None
        if not isinstance(module, nn.Conv2d | nn.Linear):
            return None
        depthwise = isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
        return Weights(module.weight.detach().float().numpy(), depthwise=depthwise)

    def padding(self, layer: NetworkLayer) -> float | None:  # noqa: ARG002
        return None


def _weight(module: nn.Module) -> nn.Parameter:
    return module.get_parameter("weight")


def _tensor(node: fx.Node, value: object) -> Tensor:
    if isinstance(value, TorchTensor):
        constant = node.op == "get_attr"
        dtype = str(value.dtype).removeprefix("torch.")
        return Tensor(node.name, tuple(value.shape), dtype, constant)
    many = isinstance(value, tuple | list) and any(isinstance(v, TorchTensor) for v in value)
    return Tensor(node.name, (), "float32" if many else "int64")


def _module_path(node: fx.Node) -> str:
    if node.op == "call_module":
        return canonical(str(node.target))
    stack = node.meta.get("nn_module_stack") or {}
    return canonical(next(reversed(stack), ""))
