"""Cascaded group attention in windows (EfficientViT, arXiv 2305.07027, section 3), reference form.

Shape legend
    B windows of all images, C channels, R side of a full window, H and W of this one
    h heads, d = C/h channels of a head, K key width, N = H*W positions

Each head attends over its own group of channels plus what the head before it found. Keys,
queries and values come from one 1x1 convolution, and the queries pass a depthwise one more.
Logits get a learned bias for each head and offset (|dy|, |dx|) of two positions, which are
numbered |dy| * R + |dx|: the order in which the published code first meets them.

The published code fixes the map's size and keeps the biases of all position pairs in a plain
attribute, which ``.to()`` forgets. Here the map may have any size: one that fits into a window is
attended to as it is, a larger one is padded with zeros at the bottom and right to whole windows,
as the published code would, and the padding takes part in the attention as it does there.
Tensor names are timm's (``qkvs.0.conv``, ``dws.0.bn``, ``proj.1.conv``, ``attention_biases``).
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.nn.functional import pad


class ConvBatchNorm(nn.Sequential):
    """``conv`` (no bias, padded with k//2) and ``bn``, nothing behind them."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        self.add_module("conv", conv)
        self.add_module("bn", nn.BatchNorm2d(out_channels))


def window_grid(height: int, width: int, window: int) -> tuple[int, int]:
    """Rows and columns of windows that cover a map; (1, 1) if it fits into one as it is."""
    if height <= window and width <= window:
        return 1, 1
    return -(-height // window), -(-width // window)


@fx.wrap
def to_windows(x: Tensor, window: int) -> Tensor:
    """``[B, C, H, W]`` to ``[B * windows, C, window, window]``, row by row.

    A map that fits into one window is returned as it is.
    """
    batch, channels, height, width = x.shape
    rows, columns = window_grid(height, width, window)
    if (rows, columns) == (1, 1):
        return x
    x = pad(x, (0, columns * window - width, 0, rows * window - height))
    x = x.reshape(batch, channels, rows, window, columns, window).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(-1, channels, window, window)


@fx.wrap
def from_windows(windows: Tensor, window: int, whole: Tensor) -> Tensor:
    """Undo ``to_windows``, without the padding, for a map of the shape of ``whole``."""
    batch, channels, height, width = whole.shape
    rows, columns = window_grid(height, width, window)
    if (rows, columns) == (1, 1):
        return windows
    x = windows.reshape(batch, rows, columns, channels, window, window).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(batch, channels, rows * window, columns * window)[..., :height, :width]


@fx.wrap
def position_bias(biases_hO: Tensor, like: Tensor) -> Tensor:
    """The biases ``[h, N, N]`` of all pairs of positions in a window, from ``[h, R*R]``.

    ``like`` is any ``[..., H, W]`` with the size of the window, at most R.
    """
    height, width = like.shape[-2:]
    side = round(biases_hO.shape[1] ** 0.5)
    y = torch.arange(height, device=biases_hO.device)
    x = torch.arange(width, device=biases_hO.device)
    dy_HH, dx_WW = (y[:, None] - y).abs(), (x[:, None] - x).abs()
    index_HWHW = dy_HH[:, None, :, None] * side + dx_WW[None, :, None, :]
    return biases_hO[:, index_HWHW.reshape(height * width, height * width)]


class CascadedGroupAttention(nn.Module):
    """Maps windows ``[B, C, H, W]`` to the same shape, for H and W up to ``window``.

    ``kernels`` has the side of each head's depthwise convolution. Raises ValueError if the
    heads do not divide the channels.
    """

    def __init__(
        self, channels: int, *, heads: int, key_dim: int, window: int, kernels: tuple[int, ...]
    ) -> None:
        super().__init__()
        if channels % heads or len(kernels) != heads:
            raise ValueError(f"{heads} heads cannot share {channels} channels, kernels {kernels}")
        self.heads, self.key_dim, self.window = heads, key_dim, window
        self.value_dim = channels // heads
        self.qkvs = nn.ModuleList(
            ConvBatchNorm(self.value_dim, 2 * key_dim + self.value_dim) for _ in range(heads)
        )
        self.dws = nn.ModuleList(
            ConvBatchNorm(key_dim, key_dim, k, groups=key_dim) for k in kernels
        )
        self.proj = nn.Sequential(nn.ReLU(), ConvBatchNorm(channels, channels))
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        bias_hNN = position_bias(self.attention_biases, x)
        groups = x.chunk(self.heads, dim=1)
        found: list[Tensor] = []
        for head in range(self.heads):
            # What the head before it found has the shape of this head's group.
            group = groups[head] + found[-1] if found else groups[head]
            q, k, v = self.qkvs[head](group).split(
                [self.key_dim, self.key_dim, self.value_dim], dim=1
            )
            q_BKN, k_BKN, v_BdN = self.dws[head](q).flatten(2), k.flatten(2), v.flatten(2)
            logits_BNN = q_BKN.transpose(-2, -1) @ k_BKN * self.key_dim**-0.5 + bias_hNN[head]
            mixed_BdN = v_BdN @ logits_BNN.softmax(dim=-1).transpose(-2, -1)
            found.append(mixed_BdN.reshape(batch, self.value_dim, height, width))
        y: Tensor = self.proj(torch.cat(found, dim=1))
        return y


class LocalWindowAttention(nn.Module):
    """``attn`` in each window of a map ``[B, C, H, W]`` of any size."""

    def __init__(self, attn: CascadedGroupAttention) -> None:
        super().__init__()
        self.attn = attn

    def forward(self, x: Tensor) -> Tensor:
        window = self.attn.window
        return from_windows(self.attn(to_windows(x, window)), window, x)
