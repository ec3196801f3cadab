"""The model takes pixels scaled to 0..1 and normalises them itself.

The normalisation is a 1x1 depthwise convolution with one weight and bias per colour: exact, one
operator that every target has, and per-channel in int8. It is not folded into the stem, whose
zero padding lies behind it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mnv4_deploy.models.records import Preprocessing


class BakedPreprocess(nn.Module):
    """``[B, 3, H, W]`` of 0..1 pixels to the wrapped module's output."""

    def __init__(self, wrapped: nn.Module, spec: Preprocessing) -> None:
        super().__init__()
        std = torch.tensor(spec.std)
        self.normalize = nn.Conv2d(3, 3, 1, groups=3)
        self.normalize.weight = nn.Parameter((1 / std).view(3, 1, 1, 1))
        self.normalize.bias = nn.Parameter(-torch.tensor(spec.mean) / std)
        self.wrapped = wrapped

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.wrapped(self.normalize(x))
        return y
