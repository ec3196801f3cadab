"""The int8 grids that both quantizers choose: ``pair_scales`` for weights of PyTorch modules."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mnv4_deploy.exporters import pair_scales
from mnv4_deploy.exporters.pair_scales import WeightGrid
from mnv4_deploy.exporters.recovery.network import Weighted

# float32 has 24 bits and a code 7: with so few, code times scale and sums of two are exact.
_SCALE_BITS = 17


def layer_grid(layer: Weighted, grid: WeightGrid) -> WeightGrid:
    """The grid of ``layer`` in a file on ``grid``."""
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    return pair_scales.layer_grid(grid, layer.weight.shape, groups)


def channel_scales(weight: Tensor, grid: WeightGrid) -> Tensor:
    """``[C_out]`` float32: the scale of each output channel; 1 for zeros."""
    found = pair_scales.channel_scales(weight.detach().float().numpy(), grid)
    scales = torch.from_numpy(found)
    return torch.where(scales > 0, scales, torch.ones_like(scales))


def lasting_scales(scales: Tensor) -> Tensor:
    """``scales``, at most 2^-16 wider, so that the quantizers find the same ones again.

    They divide the largest weight (or sum of two), which is a code times the scale, by the code.
    """
    mantissas, exponents = torch.frexp(scales)
    return torch.ldexp(torch.ceil(mantissas * 2**_SCALE_BITS), exponents - _SCALE_BITS)


def rounded_weight(layer: Weighted, grid: WeightGrid) -> Tensor:
    """The weight of ``layer`` as a file on ``grid`` holds it: each at its nearest code."""
    weight = layer.weight
    scale = channel_scales(weight, layer_grid(layer, grid)).view(-1, *[1] * (weight.ndim - 1))
    codes = torch.round(weight.detach().float() / scale)
    return (codes * scale).to(weight.dtype)
