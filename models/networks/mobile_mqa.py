"""Mobile multi-query attention (MobileNetV4, arXiv 2404.10518, section 4), reference form.

Shape legend
    B batch, C channels of the feature map, H and W its height and width
    h query heads, d key width, e value width
    N = ceil(H/s)*ceil(W/s) query positions at query stride s (one for each axis),
    P = ceil(H/t)*ceil(W/t) key positions at K/V stride t

All heads share one key and one value map, so K and V have no head axis. The arithmetic is that
of ``OptimizedMultiQueryAttentionLayerWithDownSampling`` of tensorflow/models
``official/vision/modeling/layers/nn_blocks.py``; module names are those of timm's
``MultiQueryAttention2d`` (``query.proj``, ``key.{down_conv,norm,proj}``, ...), whose checkpoints
load, and so is the symmetric padding of the K/V convolutions.

A PyTorch port of that layer has been copied into several detectors, with errors. It views NCHW
memory as ``[h, N, d]``, so that a query is d neighbouring pixels of one channel, and the values
and the result likewise; here channel c is component c % d of head c // d. It divides the logits
by sqrt(d / h) instead of sqrt(d), uses d for e, assumes square maps, drops logits out instead of
weights (here nothing is), passes no tensor to its query pooling and never scales its result up
again. And it replaces convolutions outright, without the norm, layer scale and residual of
``MobileMqaBlock``.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from mnv4_deploy.models.networks.layers import LayerScale

QueryStride = int | tuple[int, int]


def pad_before(side: int, stride: int) -> int:
    """Cells that TensorFlow's ``same`` puts before a side, pooled in windows of its stride."""
    return -side % stride // 2


@fx.wrap
def avg_pool2d(x: Tensor, stride: tuple[int, int]) -> Tensor:
    """``[B, C, H, W]`` to ``[B, C, ceil(H/s), ceil(W/s)]``, TensorFlow's ``same``.

    A window that hangs over the border is the mean of the pixels inside. In a trace it is one
    node, not arithmetic on shapes, and has the name of torch's own, by which those who read the
    trace know it.
    """
    height, width = x.shape[-2:]
    padding = (pad_before(height, stride[0]), pad_before(width, stride[1]))
    return functional.avg_pool2d(
        x, stride, padding=padding, ceil_mode=True, count_include_pad=False
    )


class SameAvgPool2d(nn.Module):
    """``avg_pool2d`` as a layer; ``stride`` is (vertical, horizontal)."""

    def __init__(self, stride: tuple[int, int]) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return avg_pool2d(x, self.stride)


class Projection(nn.Sequential):
    """A 1x1 convolution, behind a layer that shrinks the map and its norm where there is one."""

    proj: nn.Conv2d

    def __init__(self, in_channels: int, out_channels: int, **shrink: nn.Module) -> None:
        norm = {"norm": nn.BatchNorm2d(in_channels)} if shrink else {}
        proj = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        super().__init__(OrderedDict(**shrink, **norm, proj=proj))


class MultiQueryAttention(nn.Module):
    """Maps ``[B, C, H, W]`` to the same shape; any H and W, odd and non-square included.

    ``key_dim`` and ``value_dim`` (``key_dim`` if None) are widths per head. With ``kv_stride``
    above 1 keys and values each come from a 3x3 depthwise convolution of that stride and a norm.
    ``query_stride``, one number or (vertical, horizontal), averages pixels before the query
    projection and scales the attended map up again, bilinearly with half-pixel centres, before
    the output projection.

    Where a query stride does not divide a side, the pooled map is ceil(side / stride) long and
    is scaled up to the side itself, not to the next multiple: the original, whose result then
    differs in size from its input, has no meaning there.

    Raises ValueError for sizes and strides below 1.
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        key_dim: int,
        value_dim: int | None = None,
        kv_stride: int = 1,
        query_stride: QueryStride = 1,
    ) -> None:
        super().__init__()
        value_dim = key_dim if value_dim is None else value_dim
        _check(channels=channels, heads=heads, key_dim=key_dim, value_dim=value_dim)
        _check(kv_stride=kv_stride)
        self.heads, self.key_dim, self.value_dim = heads, key_dim, value_dim
        self.query_stride = _pair(query_stride)
        self.query = Projection(channels, heads * key_dim, **_down_pool(self.query_stride))
        self.key = Projection(channels, key_dim, **_down_conv(channels, kv_stride))
        self.value = Projection(channels, value_dim, **_down_conv(channels, kv_stride))
        self.output = Projection(heads * value_dim, channels)

    def forward(self, x: Tensor) -> Tensor:
        q = self.query(x)
        batch, _, height, width = q.shape
        # Channel c of the query map is head c // d, component c % d ("head-major").
        q_BhdN = q.reshape(batch, self.heads, self.key_dim, height * width)
        k_BdP = self.key(x).flatten(2)
        v_BeP = self.value(x).flatten(2)
        logits_BhNP = torch.einsum("bhdn,bdp->bhnp", q_BhdN, k_BdP) * self.key_dim**-0.5
        weights_BhNP = logits_BhNP.softmax(dim=-1)
        mixed_BheN = torch.einsum("bhnp,bep->bhen", weights_BhNP, v_BeP)
        mixed = mixed_BheN.reshape(batch, self.heads * self.value_dim, height, width)
        if self.query_stride != (1, 1):
            mixed = functional.interpolate(mixed, size=x.shape[-2:], mode="bilinear")
        y: Tensor = self.output(mixed)
        return y


class MobileMqaBlock(nn.Module):
    """Pre-norm, attention, layer scale (none if ``layer_scale_init`` is None), residual.

    The other arguments are those of ``MultiQueryAttention``.
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        key_dim: int,
        value_dim: int | None = None,
        kv_stride: int = 1,
        query_stride: QueryStride = 1,
        layer_scale_init: float | None,
    ) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.attn = MultiQueryAttention(
            channels,
            heads=heads,
            key_dim=key_dim,
            value_dim=value_dim,
            kv_stride=kv_stride,
            query_stride=query_stride,
        )
        self.layer_scale = (
            nn.Identity() if layer_scale_init is None else LayerScale(channels, layer_scale_init)
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.layer_scale(self.attn(self.norm(x)))
        return y


def _down_pool(stride: tuple[int, int]) -> dict[str, nn.Module]:
    return {} if stride == (1, 1) else {"down_pool": SameAvgPool2d(stride)}


def _down_conv(channels: int, stride: int) -> dict[str, nn.Module]:
    if stride == 1:
        return {}
    conv = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False)
    return {"down_conv": conv}


def _pair(stride: QueryStride) -> tuple[int, int]:
    pair = stride if isinstance(stride, tuple) else (stride, stride)
    if len(pair) != 2:
        raise ValueError(
            f"A Mobile MQA needs one query_stride or (vertical, horizontal), not {stride!r}."
        )
    _check(**{"the vertical query_stride": pair[0], "the horizontal query_stride": pair[1]})
    return pair


def _check(**counts: object) -> None:
    for name, count in counts.items():
        if not isinstance(count, int) or count < 1:
            raise ValueError(
                f"A Mobile MQA needs whole numbers from 1 up, but {name} is {count!r}."
            )
