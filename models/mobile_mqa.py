"""Mobile multi-query attention (MobileNetV4, arXiv 2404.10518, section 4), reference form.

Shape legend
    B batch, C channels of the feature map, H and W its height and width
    h query heads, d key width (= value width here)
    N = H*W query positions, P = ceil(H/s)*ceil(W/s) key positions at K/V stride s

All heads share one key and one value map, so K and V have no head axis. Module names are
timm's (``attn.query.proj``, ``attn.key.{down_conv,norm,proj}``, ...), so that its
checkpoints load; the arithmetic follows ``OptimizedMultiQueryAttentionLayerWithDownSampling``
of tensorflow/models ``official/vision/modeling/layers/nn_blocks.py``: no projection biases,
logits scaled by 1/sqrt(d), softmax over P.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mnv4_deploy.models.layers import LayerScale


class _Projection(nn.Module):
    """A 1x1 convolution, behind a stride-s 3x3 depthwise convolution and its norm if s > 1."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        if stride > 1:
            self.down_conv = nn.Conv2d(
                in_channels,
                in_channels,
                3,
                stride=stride,
                padding=1,
                groups=in_channels,
                bias=False,
            )
            self.norm = nn.BatchNorm2d(in_channels)
        self.stride = stride
        self.proj = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride > 1:
            x = self.norm(self.down_conv(x))
        y: Tensor = self.proj(x)
        return y


class MultiQueryAttention(nn.Module):
    """Maps ``[B, C, H, W]`` to the same shape; any H and W, non-square included."""

    def __init__(self, channels: int, *, heads: int, key_dim: int, kv_stride: int) -> None:
        super().__init__()
        self.heads = heads
        self.key_dim = key_dim
        self.query = _Projection(channels, heads * key_dim)
        self.key = _Projection(channels, key_dim, stride=kv_stride)
        self.value = _Projection(channels, key_dim, stride=kv_stride)
        self.output = _Projection(heads * key_dim, channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        # Channel c of the query map is head c // d, component c % d ("head-major").
        q_BhdN = self.query(x).reshape(batch, self.heads, self.key_dim, height * width)
        k_BdP = self.key(x).flatten(2)
        v_BdP = self.value(x).flatten(2)
        logits_BhNP = torch.einsum("bhdn,bdp->bhnp", q_BhdN, k_BdP) * self.key_dim**-0.5
        weights_BhNP = logits_BhNP.softmax(dim=-1)
        mixed_BhdN = torch.einsum("bhnp,bdp->bhdn", weights_BhNP, v_BdP)
        y: Tensor = self.output(mixed_BhdN.reshape(batch, -1, height, width))
        return y


class MobileMqaBlock(nn.Module):
    """Pre-norm, attention, layer scale, residual."""

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        key_dim: int,
        kv_stride: int,
        layer_scale_init: float | None,
    ) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.attn = MultiQueryAttention(
            channels, heads=heads, key_dim=key_dim, kv_stride=kv_stride
        )
        self.layer_scale = (
            nn.Identity() if layer_scale_init is None else LayerScale(channels, layer_scale_init)
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.layer_scale(self.attn(self.norm(x)))
        return y
