"""The int8 grids that both quantizers choose, in their own float32 arithmetic."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

WeightBits = Literal[7, 8]
# ai-edge-quantizer's 8 bits and onnxruntime's leave out -128; onnxruntime's ``reduce_range``
# ("7 bits") is -64..64.
LARGEST_CODE: dict[int, int] = {7: 64, 8: 127}


def channel_scales(weight: Tensor, bits: WeightBits) -> Tensor:
    """``[C_out]`` float32: max |w| of each output channel over the largest code; 1 for zeros."""
    peaks = weight.detach().flatten(1).abs().amax(dim=1).float()
    return torch.where(peaks > 0, peaks / LARGEST_CODE[bits], torch.ones_like(peaks))


def lasting_scales(scales: Tensor, bits: WeightBits) -> Tensor:
    """``scales`` changed in their last place so that the quantizers find the same ones again.

    They divide the largest weight, which is code times scale and so rounded itself.
    """
    largest = LARGEST_CODE[bits]
    for _ in range(8):
        scales = scales * largest / largest
    return scales


def rounded_weight(weight: Tensor, bits: WeightBits) -> Tensor:
    """``weight`` as int8 holds it: the nearest code of each output channel's scale."""
    scale = channel_scales(weight, bits).view(-1, *[1] * (weight.ndim - 1))
    codes = torch.round(weight.detach().float() / scale)
    return (codes * scale).to(weight.dtype)
