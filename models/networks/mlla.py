"""MLLA, a vision transformer of linear attention (arXiv 2405.16605), reference form.

Structure and tensor names are those of LeapLabTHU/MLLA ``models/mlla.py``. Two things differ.
Rotations are computed for whatever map arrives, in real arithmetic: the original keeps complex
factors for one size in a buffer ``attn.rope.rotations``, which a checkpoint need not have. And
maps need not be square, nor sides even: the original takes the root of the number of tokens for
both sides.

Shape legend
    B batch, H and W height and width of a map, N = H*W tokens
    C channels, h heads, d = C/h channels of a head
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn

from mnv4_deploy.models.networks.mlla_variants import Variant

_ROPE_BASE = 10000
NORMALIZER_EPS = 1e-6


def rope_angles(height: int, width: int, channels: int) -> npt.NDArray[np.float64]:
    """Angles ``[H, W, C/2]`` in radians: each turns one pair of channels.

    The first C/4 turn with the row, the others with the column, each at its own frequency
    10000^(-k / (C/4)).
    """
    frequencies = channels // 4
    frequency = _ROPE_BASE ** -(np.arange(frequencies) / frequencies)
    angles = np.empty((height, width, 2, frequencies))
    angles[:, :, 0] = np.arange(height)[:, None, None] * frequency
    angles[:, :, 1] = np.arange(width)[:, None] * frequency
    return angles.reshape(height, width, 2 * frequencies)


@fx.wrap
def rotations_like(x_BHWC: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines ``[H, W, C/2]`` for a map, computed by NumPy: constants to an exporter."""
    height, width, channels = x_BHWC.shape[1:]
    angles = rope_angles(height, width, channels)
    cos = torch.tensor(np.cos(angles), dtype=x_BHWC.dtype, device=x_BHWC.device)
    sin = torch.tensor(np.sin(angles), dtype=x_BHWC.dtype, device=x_BHWC.device)
    return cos, sin


class RotaryEmbedding(nn.Module):
    """Turns each pair of neighbouring channels of ``[B, H, W, C]`` by an angle of its position."""

    def forward(self, x_BHWC: Tensor) -> Tensor:
        cos, sin = rotations_like(x_BHWC)
        batch, height, width, channels = x_BHWC.shape
        even, odd = x_BHWC.reshape(batch, height, width, channels // 2, 2).unbind(-1)
        transposed = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
        return transposed.flatten(-2)


class LinearAttention(nn.Module):
    """Linear attention with rotary and local position embeddings, on ``[B, N, C]``.

    The values are the input itself. Weights are products of q and k, both mapped to positive
    values by ELU + 1 and then transposed; they are normalised by the products before the turn.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qk = nn.Linear(channels, 2 * channels)
        self.elu = nn.ELU()
        self.lepe = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.rope = RotaryEmbedding()

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """``size`` is (H, W) of the map whose positions the tokens are, row by row."""
        height, width = size
        batch, tokens, channels = x.shape
        qk = self.qk(x).reshape(batch, tokens, 2, channels).permute(2, 0, 1, 3)
        q, k, v = self.elu(qk[0]) + 1.0, self.elu(qk[1]) + 1.0, x
        q_rope = self.rope(q.reshape(batch, height, width, channels)).reshape(q.shape)
        k_rope = self.rope(k.reshape(batch, height, width, channels)).reshape(k.shape)
        q_BhNd, k_BhNd, v_BhNd = self._by_head(q), self._by_head(k), self._by_head(v)

        mean_Bhd1 = k_BhNd.mean(dim=-2, keepdim=True).transpose(-2, -1)
        normalizer_BhN1 = 1 / (q_BhNd @ mean_Bhd1 + NORMALIZER_EPS)
        # The factor 1/N is split between the two, which keeps either in the range of a float16.
        keys_BhdN = self._by_head(k_rope).transpose(-2, -1) * tokens**-0.5
        kv_Bhdd = keys_BhdN @ (v_BhNd * tokens**-0.5)
        y_BhNd = self._by_head(q_rope) @ kv_Bhdd * normalizer_BhN1

        y: Tensor = y_BhNd.transpose(1, 2).reshape(batch, tokens, channels)
        return y + as_tokens(self.lepe(as_map(x, size)))

    def _by_head(self, x: Tensor) -> Tensor:
        """``[B, N, C]`` to ``[B, h, N, d]``; neighbouring channels belong to one head."""
        batch, tokens, channels = x.shape
        return x.reshape(batch, tokens, self.heads, channels // self.heads).permute(0, 2, 1, 3)


def as_map(x: Tensor, size: tuple[int, int]) -> Tensor:
    """``[B, N, C]`` to ``[B, C, H, W]``."""
    batch, _, channels = x.shape
    height, width = size
    return x.reshape(batch, height, width, channels).permute(0, 3, 1, 2)


def as_tokens(x: Tensor) -> Tensor:
    """``[B, C, H, W]`` to ``[B, N, C]``."""
    return x.flatten(2).permute(0, 2, 1)


class Mlp(nn.Module):
    def __init__(self, channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden_channels)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(self.act(self.fc1(x)))
        return y


class MllaBlock(nn.Module):
    """Gated linear attention, then an MLP, each behind a depthwise position encoding and norm."""

    def __init__(self, channels: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.cpe1 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm1 = nn.LayerNorm(channels)
        self.in_proj = nn.Linear(channels, channels)
        self.act_proj = nn.Linear(channels, channels)
        self.dwc = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.act = nn.SiLU()
        self.attn = LinearAttention(channels, heads)
        self.out_proj = nn.Linear(channels, channels)
        self.cpe2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, mlp_ratio * channels)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """``[B, N, C]`` to the same; ``size`` is (H, W)."""
        x = x + as_tokens(self.cpe1(as_map(x, size)))
        shortcut = x
        x = self.norm1(x)
        gate = self.act(self.act_proj(x))
        x = as_tokens(self.act(self.dwc(as_map(self.in_proj(x), size))))
        x = shortcut + self.out_proj(self.attn(x, size) * gate)
        x = x + as_tokens(self.cpe2(as_map(x, size)))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class ConvLayer(nn.Module):
    """``conv``, then an optional ``norm``, then an optional activation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        norm: bool = True,
        act: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel,
            stride=stride,
            padding=kernel // 2,
            groups=groups,
            bias=bias,
        )
        self.norm = nn.BatchNorm2d(out_channels) if norm else nn.Identity()
        self.act = nn.ReLU() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.norm(self.conv(x)))
        return y


class Stem(nn.Module):
    """``[B, 3, H, W]`` to a map at stride 4."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = ConvLayer(3, half, 3, stride=2)
        self.conv2 = nn.Sequential(ConvLayer(half, half, 3), ConvLayer(half, half, 3, act=False))
        self.conv3 = nn.Sequential(
            ConvLayer(half, 4 * channels, 3, stride=2),
            ConvLayer(4 * channels, channels, 1, act=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        y: Tensor = self.conv3(self.conv2(x) + x)
        return y


class PatchMerging(nn.Module):
    """Halves a map and doubles its channels, by an inverted residual without the residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 8 * channels
        self.conv = nn.Sequential(
            ConvLayer(channels, wide, 1, bias=True, norm=False),
            ConvLayer(wide, wide, 3, stride=2, groups=wide, bias=True, norm=False),
            ConvLayer(wide, 2 * channels, 1, bias=True, act=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y


class Blocks(nn.ModuleList):
    """Blocks on a map ``[B, C, H, W]``, one after another."""

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[2], x.shape[3])
        tokens = as_tokens(x)
        for block in self:
            tokens = block(tokens, size)
        return as_map(tokens, size)


class Stage(nn.Module):
    """Blocks on one map; ``downsample`` leads to the next stage."""

    def __init__(
        self, channels: int, depth: int, heads: int, mlp_ratio: int, *, downsample: bool
    ) -> None:
        super().__init__()
        self.blocks = Blocks(MllaBlock(channels, heads, mlp_ratio) for _ in range(depth))
        self.downsample = PatchMerging(channels) if downsample else nn.Identity()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, C, H, W]`` to the same, and to what the next stage takes."""
        x = self.blocks(x)
        return x, self.downsample(x)


class Stages(nn.ModuleList):
    """A map at stride 4 to the maps of all stages."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps: list[Tensor] = []
        for stage in self:
            y, x = stage(x)
            maps.append(y)
        return tuple(maps)


class Mlla(nn.Module):
    """``[B, 3, H, W]`` to logits ``[B, num_classes]``.

    With ``features_only`` the output is the tuple of the stages' maps at strides 4, 8, 16 and 32
    (``feature_channels`` wide), and the last norm and the head do not exist. Any size from 32 up
    works, odd and non-square ones included.
    """

    def __init__(
        self, variant: Variant, *, num_classes: int = 1000, features_only: bool = False
    ) -> None:
        super().__init__()
        self.variant = variant
        self.features_only = features_only
        stages = len(variant.depths)
        self.feature_channels = tuple(variant.embed_dim * 2**stage for stage in range(stages))
        self.patch_embed = Stem(variant.embed_dim)
        self.layers = Stages(
            Stage(channels, depth, heads, variant.mlp_ratio, downsample=stage < stages - 1)
            for stage, (channels, depth, heads) in enumerate(
                zip(self.feature_channels, variant.depths, variant.heads, strict=True)
            )
        )
        if not features_only:
            self.norm = nn.LayerNorm(self.feature_channels[-1])
            self.avgpool = nn.AdaptiveAvgPool1d(1)
            self.head = nn.Linear(self.feature_channels[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        maps: tuple[Tensor, ...] = self.layers(self.patch_embed(x))
        if self.features_only:
            return maps
        pooled = self.avgpool(self.norm(as_tokens(maps[-1])).transpose(1, 2))
        logits: Tensor = self.head(pooled.flatten(1))
        return logits
