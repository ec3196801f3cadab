"""EfficientViT of Microsoft Research (arXiv 2305.07027), M0 to M5.

Structure and tensor names are those of timm's ``efficientvit_msra``. Of the published code the
second head for distillation is left out, which no published checkpoint has.
Shapes are NCHW; ``H`` and ``W`` need not be equal.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

import torch
from torch import Tensor, nn

from mnv4_deploy.models.networks.cascaded_group_attention import (
    CascadedGroupAttention,
    ConvBatchNorm,
    LocalWindowAttention,
)
from mnv4_deploy.models.networks.efficientvit_variants import KEY_DIM, Variant
from mnv4_deploy.models.networks.layers import make_divisible

_EXPANSION = 2
_MERGING_EXPANSION = 4
_SQUEEZE = 0.25


class Residual(nn.Module):
    """``x + m(x)``; timm's name of the branch."""

    def __init__(self, m: nn.Module) -> None:
        super().__init__()
        self.m = m

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.m(x)
        return y


class FeedForward(nn.Module):
    """1x1 to twice the channels, ReLU, 1x1 back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pw1 = ConvBatchNorm(channels, channels * _EXPANSION)
        self.act = nn.ReLU()
        self.pw2 = ConvBatchNorm(channels * _EXPANSION, channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.pw2(self.act(self.pw1(x)))
        return y


class SqueezeExcite(nn.Module):
    """Scale each channel by a sigmoid of all channels' means; both convolutions have biases."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = make_divisible(channels * _SQUEEZE, 8, round_limit=0.0)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.act = nn.ReLU()
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(self.act(self.fc1(pooled))))


class PatchMerging(nn.Module):
    """Half the resolution: an inverted residual with squeeze-excite and without the residual."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        expanded = in_channels * _MERGING_EXPANSION
        self.conv1 = ConvBatchNorm(in_channels, expanded)
        self.act = nn.ReLU()
        self.conv2 = ConvBatchNorm(expanded, expanded, 3, stride=2, groups=expanded)
        self.se = SqueezeExcite(expanded)
        self.conv3 = ConvBatchNorm(expanded, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv2(self.act(self.conv1(x))))
        y: Tensor = self.conv3(self.se(x))
        return y


class EfficientVitBlock(nn.Module):
    """The sandwich: depthwise and feed-forward before and after the attention, all residual."""

    def __init__(self, channels: int, attention: CascadedGroupAttention) -> None:
        super().__init__()
        self.dw0 = Residual(ConvBatchNorm(channels, channels, 3, groups=channels))
        self.ffn0 = Residual(FeedForward(channels))
        self.mixer = Residual(LocalWindowAttention(attention))
        self.dw1 = Residual(ConvBatchNorm(channels, channels, 3, groups=channels))
        self.ffn1 = Residual(FeedForward(channels))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.ffn1(self.dw1(self.mixer(self.ffn0(self.dw0(x)))))
        return y


class EfficientVitStage(nn.Module):
    """An optional halving of the resolution, and blocks."""

    def __init__(self, downsample: nn.Module, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.blocks(self.downsample(x))
        return y


class NormLinear(nn.Sequential):
    """``bn`` over features ``[B, C]`` and ``linear``."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.add_module("bn", nn.BatchNorm1d(features))
        self.add_module("linear", nn.Linear(features, classes))


class EfficientVit(nn.Module):
    """``[B, 3, H, W]`` to logits ``[B, num_classes]``.

    With ``features_only`` the output is the tuple of the stages' maps at strides 16, 32 and 64
    (``feature_channels`` wide; there is none at 4 and 8), and the head does not exist. Any size
    from 32 up works; a halving rounds up.
    """

    def __init__(
        self, variant: Variant, *, num_classes: int = 1000, features_only: bool = False
    ) -> None:
        super().__init__()
        self.variant = variant
        self.features_only = features_only
        self.patch_embed = _patch_embedding(variant.channels[0])
        stages: list[nn.Module] = []
        for index, channels in enumerate(variant.channels):
            heads = variant.heads[index]
            attentions = [
                CascadedGroupAttention(
                    channels,
                    heads=heads,
                    key_dim=KEY_DIM,
                    window=variant.window_sides[index],
                    kernels=variant.kernels[:heads],
                )
                for _ in range(variant.depths[index])
            ]
            stages.append(
                EfficientVitStage(
                    _subsampling(variant.channels[index - 1], channels)
                    if index
                    else nn.Identity(),
                    [EfficientVitBlock(channels, attention) for attention in attentions],
                )
            )
        self.stages = nn.Sequential(*stages)
        self.feature_channels = variant.channels
        if not features_only:
            self.global_pool = nn.AdaptiveAvgPool2d(1)
            self.head = NormLinear(variant.channels[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        x = self.patch_embed(x)
        if self.features_only:
            maps: list[Tensor] = []
            for stage in self.stages:
                x = stage(x)
                maps.append(x)
            return tuple(maps)
        logits: Tensor = self.head(self.global_pool(self.stages(x)).flatten(1))
        return logits


def _patch_embedding(channels: int) -> nn.Sequential:
    """Four 3x3 convolutions of stride 2, the last one without an activation."""
    widths = (3, channels // 8, channels // 4, channels // 2, channels)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for index, (before, after) in enumerate(pairwise(widths), start=1):
        layers[f"conv{index}"] = ConvBatchNorm(before, after, 3, stride=2)
        if after != channels:
            layers[f"relu{index}"] = nn.ReLU()
    return nn.Sequential(layers)


def _subsampling(in_channels: int, out_channels: int) -> nn.Sequential:
    def sandwich(channels: int) -> nn.Sequential:
        depthwise = ConvBatchNorm(channels, channels, 3, groups=channels)
        return nn.Sequential(Residual(depthwise), Residual(FeedForward(channels)))

    return nn.Sequential(
        OrderedDict(
            res1=sandwich(in_channels),
            patchmerge=PatchMerging(in_channels, out_channels),
            res2=sandwich(out_channels),
        )
    )
