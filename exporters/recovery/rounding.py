"""Weights rounded so that a layer's output changes least, not each weight on its own.

GPTQ (Frantar et al. 2022, arXiv 2210.17323; OBQ, arXiv 2208.11580), on convolutions of any kind
and linear layers: one input after another is rounded for all output channels at once, and what
that changes in the layer's output is made up for by the inputs that are not rounded yet, with
the inverse of the inputs' second moments H. Closed form, in float64, without a random choice.

Three things differ from the paper. The inputs' mean is taken off H and the mean of the error goes
into the bias, where it is gone for good. In place of a fixed damping H is drawn towards its
diagonal by n / (n + samples), so that a classifier with 1280 inputs is not fitted to the few
directions in which 64 images differ. And the weights end on the grid that the quantizers will
choose by themselves: what sets a channel's scale, the largest weight or sum of a pair
(``pair_scales``), stays the largest, and keeps its value.

AdaRound (arXiv 2004.10568) answers the same question by gradient descent; the only
implementation for ONNX at hand (onnxsim's) rounds 4-bit MatMul weights, and none serves TFLite.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from mnv4_deploy.exporters.pair_scales import WeightGrid
from mnv4_deploy.exporters.recovery.code_limits import CodeLimits, codes_beside
from mnv4_deploy.exporters.recovery.grid import channel_scales, lasting_scales, layer_grid
from mnv4_deploy.exporters.recovery.network import (
    Weighted,
    demand_images,
    folded,
    weighted_nodes,
)

# The variance of an input counts as at least this part of the mean one.
_LEAST_VARIANCE = 1e-6
# Positions of a feature map that are looked at, per image: as many as H has rows, at least.
_LEAST_POSITIONS = 32


@dataclass(frozen=True)
class RoundedLayer:
    """Mean squared errors of one layer's output on the calibration images, channels summed.

    ``nearest``: each weight rounded to its nearest code; ``chosen``: as it is now.
    """

    path: str
    nearest: float
    chosen: float


@dataclass(frozen=True)
class RoundingReport:
    layers: tuple[RoundedLayer, ...]


def optimise_rounding(
    module: nn.Module, inputs: Iterable[Tensor], *, weights: WeightGrid
) -> RoundingReport:
    """Put the weights of ``module`` on their int8 grid, in place.

    ``inputs`` are normalised calibration images ``[B, 3, H, W]``, taken one batch at a time.
    ``weights`` is "pairs" for ONNX and "full" for TFLite. Norms are folded first. ``module`` no
    longer computes what it did, so convert it for int8 only.

    Raises UnsupportedError without inputs.
    """
    moments: dict[fx.Node, _Moments] = {}
    own: dict[fx.Node, Weighted] = {}
    for batch in inputs:
        if not own:
            layers = folded(module, batch[:1])
            own = weighted_nodes(layers)
            moments = {node: _Moments(layer) for node, layer in own.items()}
            watcher = _Watcher(fx.GraphModule(layers.root, layers.graph), moments)
        with torch.no_grad():
            watcher.run(batch)
    demand_images(len(own))
    with torch.no_grad():
        return RoundingReport(
            tuple(
                RoundedLayer(str(node.target), *_round(layer, moments[node], weights))
                for node, layer in own.items()
            )
        )


class _Watcher(fx.Interpreter):
    """Runs a network and shows the layers' inputs to their moments."""

    def __init__(self, module: fx.GraphModule, moments: dict[fx.Node, _Moments]) -> None:
        super().__init__(module)
        self._moments = {node.name: found for node, found in moments.items()}

    def run_node(self, n: fx.Node) -> object:
        if n.name in self._moments:
            (value,), _ = self.fetch_args_kwargs_from_env(n)
            self._moments[n.name].add(value)
        return super().run_node(n)


class _Moments:
    """First and second moments of what one output value of a layer is a product with.

    Of a convolution with G groups these are its patches: G moments of n = C_in/G * k * k inputs.
    """

    def __init__(self, layer: Weighted) -> None:
        self._layer = layer
        self.groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
        size = layer.weight[0].numel()
        self._count = 0
        self._sum = torch.zeros(self.groups, size, dtype=torch.float64)
        self._products = torch.zeros(self.groups, size, size, dtype=torch.float64)

    def add(self, value: Tensor) -> None:
        rows = self._rows(value).double()
        self._count += rows.shape[1]
        self._sum += rows.sum(dim=1)
        self._products += rows.mT @ rows

    @property
    def mean(self) -> Tensor:
        return self._sum / self._count

    @property
    def covariance(self) -> Tensor:
        mean = self.mean
        return self._products / self._count - mean[:, :, None] * mean[:, None, :]

    @property
    def shrunk_covariance(self) -> Tensor:
        """Drawn towards its diagonal, and positive definite for inputs that never vary too."""
        size = self._sum.shape[1]
        share = size / (size + self._count)
        diagonal = self.covariance.diagonal(dim1=1, dim2=2)
        least = _LEAST_VARIANCE * diagonal.mean(dim=1, keepdim=True)
        target = torch.maximum(diagonal, torch.where(least > 0, least, torch.ones_like(least)))
        return torch.lerp(self.covariance, torch.diag_embed(target), share)

    def _rows(self, value: Tensor) -> Tensor:
        """``[G, samples, n]``, in the order of the weights."""
        layer = self._layer
        if isinstance(layer, nn.Linear):
            return value.flatten(0, -2)[None]
        for axis, (kernel, stride, dilation) in enumerate(
            zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)
        ):
            if axis == 0:
                value = _padded(value, layer)
            # A view [..., positions, taps]: nothing is copied before positions are chosen.
            taps = (kernel - 1) * dilation + 1
            value = value.unfold(2 + axis, taps, stride)[..., ::dilation]
        height, width = value.shape[2:4]
        chosen = _spread(height * width, max(self._products.shape[-1], _LEAST_POSITIONS))
        patches = value[:, :, chosen // width, chosen % width]  # [B, C, P, kh, kw]
        batch, channels, positions = patches.shape[:3]
        patches = patches.reshape(batch, self.groups, channels // self.groups, positions, -1)
        size = self._sum.shape[1]
        return patches.permute(1, 0, 3, 2, 4).reshape(self.groups, batch * positions, size)


def _padded(value: Tensor, layer: nn.Conv2d) -> Tensor:
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    # As torch's own convolutions do; it also resolves padding="same".
    return functional.pad(value, layer._reversed_padding_repeated_twice, mode=mode)


def _spread(total: int, wanted: int) -> Tensor:
    """Up to ``wanted`` of ``total`` positions, evenly spaced."""
    if wanted >= total:
        return torch.arange(total)
    return torch.arange(wanted) * total // wanted


def _round(layer: Weighted, moments: _Moments, weights: WeightGrid) -> tuple[float, float]:
    """Round the weights of ``layer``; the errors of nearest and of these codes."""
    shape = layer.weight.shape
    weights = layer_grid(layer, weights)
    scale = lasting_scales(channel_scales(layer.weight, weights))
    real = layer.weight.detach().double().reshape(moments.groups, -1, shape[1:].numel())
    scale_G = scale.double().reshape(moments.groups, -1, 1)
    covariance, shrunk = moments.covariance, moments.shrunk_covariance
    nearest = torch.round(real / scale_G)
    limits = CodeLimits.of(real / scale_G, shape, weights)
    plain = limits.keep(nearest)
    codes = _sequential(real, scale_G, shrunk, limits)

    def error(candidate: Tensor, moment: Tensor) -> Tensor:
        change = candidate * scale_G - real
        return ((change @ moment) * change).sum(dim=-1)

    better = error(codes, shrunk) < error(plain, shrunk)
    codes = torch.where(better[..., None], codes, plain)
    chosen = (codes.flatten(0, 1).float() * scale[:, None]).double()
    mean_error = ((chosen.view_as(real) - real) @ moments.mean[..., None]).flatten()
    layer.weight = nn.Parameter(chosen.reshape(shape).to(layer.weight.dtype))
    bias = torch.zeros_like(mean_error) if layer.bias is None else layer.bias.double()
    layer.bias = nn.Parameter((bias - mean_error).to(layer.weight.dtype))
    return float(error(nearest, covariance).sum()), float(error(codes, covariance).sum())


def _sequential(real: Tensor, scale: Tensor, covariance: Tensor, limits: CodeLimits) -> Tensor:
    """Codes ``[G, O, n]`` of the weights ``real``, rounded one input after another.

    The inputs with the most power come first: most inputs are then left to make up for them.
    """
    order = covariance.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True, stable=True)
    rest = real.gather(2, order[:, None, :].expand_as(real))
    factor = _inverse_factor(
        covariance.gather(1, order[:, :, None].expand_as(covariance)).gather(
            2, order[:, None, :].expand_as(covariance)
        )
    )
    # Codes that are not known yet limit no other, nor does the one at the end.
    codes = functional.pad(limits.pinned.nan_to_num(0.0), (0, 1))
    for column in range(rest.shape[2]):
        place = order[:, None, column, None].expand(*real.shape[:2], 1)
        least, most = codes_beside(codes.gather(2, limits.partners[place]))
        pinned = limits.pinned.gather(2, place)
        code = torch.round(rest[:, :, column, None] / scale).clamp(least, most)
        code = torch.where(pinned.isnan(), code, pinned)
        codes.scatter_(2, place, code)
        miss = (rest[:, :, column, None] - code * scale) / factor[:, column, column, None, None]
        rest[:, :, column + 1 :] -= miss * factor[:, None, column, column + 1 :]
    return codes[..., :-1]


def _inverse_factor(covariance: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse of ``covariance``, ``[G, n, n]``."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(covariance))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor
