"""MobileNetV2 and EfficientNet-Lite in the structure and with the tensor names of timm.

Inverted residuals (arXiv 1801.04381) behind a stem and below a 1x1 head, ReLU6 throughout.
Shapes are NCHW; ``H`` and ``W`` need not be equal.
"""

from __future__ import annotations

import math

from torch import Tensor, fx, nn
from torch.nn import functional

from mnv4_deploy.models.networks.inverted_residual_variants import Padding, Stage, Variant
from mnv4_deploy.models.networks.layers import make_divisible


@fx.wrap
def pad(x: Tensor, kernel: int) -> Tensor:
    """The zeros of TensorFlow's ``same`` for a convolution of stride 2 with an odd kernel.

    Output sides are ceil(side / 2), so a side n needs k - 2 + n % 2 zeros, the smaller half of
    them first. In a trace it is one node, not arithmetic on shapes, and has the name of torch's
    own, by which those who read the trace know it.
    """
    height, width = x.shape[-2:]
    after = kernel // 2
    return functional.pad(x, (after - 1 + width % 2, after, after - 1 + height % 2, after))


class SamePad(nn.Module):
    """``pad`` as a layer, because no convolution of torch pads two ends differently."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        return pad(x, self.kernel)


def _pad_and_conv(
    in_channels: int,
    out_channels: int,
    kernel: int,
    *,
    stride: int,
    padding: Padding,
    groups: int = 1,
) -> tuple[nn.Module, nn.Conv2d]:
    """What has to come before a convolution without bias, and the convolution."""
    explicit = padding == "same" and stride == 2
    conv = nn.Conv2d(
        in_channels,
        out_channels,
        kernel,
        stride=stride,
        padding=0 if explicit else kernel // 2,
        groups=groups,
        bias=False,
    )
    return (SamePad(kernel) if explicit else nn.Identity()), conv


class DepthwiseSeparable(nn.Module):
    """An inverted residual that does not expand: depthwise, then a linear 1x1."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, variant: Variant, stage: Stage
    ) -> None:
        super().__init__()
        eps = variant.norm_eps
        self.pad_dw, self.conv_dw = _pad_and_conv(
            in_channels,
            in_channels,
            stage.kernel,
            stride=stride,
            padding=variant.padding,
            groups=in_channels,
        )
        self.bn1 = nn.BatchNorm2d(in_channels, eps=eps)
        self.act1 = nn.ReLU6()
        self.conv_pw = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels, eps=eps)
        self.has_skip = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act1(self.bn1(self.conv_dw(self.pad_dw(x))))
        y = self.bn2(self.conv_pw(y))
        return x + y if self.has_skip else y


class InvertedResidual(nn.Module):
    """1x1 expand, depthwise, linear 1x1 project; + input where sizes and channels agree."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, variant: Variant, stage: Stage
    ) -> None:
        super().__init__()
        eps = variant.norm_eps
        expanded = make_divisible(in_channels * stage.expand_ratio)
        self.conv_pw = nn.Conv2d(in_channels, expanded, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(expanded, eps=eps)
        self.act1 = nn.ReLU6()
        self.pad_dw, self.conv_dw = _pad_and_conv(
            expanded,
            expanded,
            stage.kernel,
            stride=stride,
            padding=variant.padding,
            groups=expanded,
        )
        self.bn2 = nn.BatchNorm2d(expanded, eps=eps)
        self.act2 = nn.ReLU6()
        self.conv_pwl = nn.Conv2d(expanded, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels, eps=eps)
        self.has_skip = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act1(self.bn1(self.conv_pw(x)))
        y = self.act2(self.bn2(self.conv_dw(self.pad_dw(y))))
        y = self.bn3(self.conv_pwl(y))
        return x + y if self.has_skip else y


class InvertedResidualNet(nn.Module):
    """``[B, 3, H, W]`` to logits ``[B, num_classes]``.

    With ``features_only`` the output is the tuple of the last maps at strides 4, 8, 16 and 32
    (``feature_channels`` wide), and the head does not exist. Any size from 32 up works, odd and
    non-square ones included.
    """

    def __init__(
        self, variant: Variant, *, num_classes: int = 1000, features_only: bool = False
    ) -> None:
        super().__init__()
        self.variant = variant
        self.features_only = features_only
        channels = variant.stem_channels
        self.pad_stem, self.conv_stem = _pad_and_conv(
            3, channels, 3, stride=2, padding=variant.padding
        )
        self.bn1 = nn.BatchNorm2d(channels, eps=variant.norm_eps)
        self.act1 = nn.ReLU6()
        stages: list[nn.Module] = []
        widths: list[int] = []
        for index, stage in enumerate(variant.stages):
            inner = 0 < index < len(variant.stages) - 1
            repeats = math.ceil(stage.repeats * variant.depth) if inner else stage.repeats
            width = make_divisible(stage.out_channels * variant.width)
            stages.append(_build_stage(stage, repeats, channels, width, variant))
            channels = width
            widths.append(width)
        self.blocks = nn.Sequential(*stages)
        # The stages whose successor, if any, halves the map again; the first one is at stride 2.
        followers = (*variant.stages[1:], None)
        self._tapped = [
            index
            for index, follower in enumerate(followers)
            if follower is None or follower.stride == 2
        ][1:]
        self.feature_channels = tuple(widths[index] for index in self._tapped)
        if not features_only:
            self.conv_head = nn.Conv2d(channels, variant.head_channels, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(variant.head_channels, eps=variant.norm_eps)
            self.act2 = nn.ReLU6()
            self.global_pool = nn.AdaptiveAvgPool2d(1)
            self.classifier = nn.Linear(variant.head_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        x = self.act1(self.bn1(self.conv_stem(self.pad_stem(x))))
        if self.features_only:
            maps: list[Tensor] = []
            for stage in self.blocks:
                x = stage(x)
                maps.append(x)
            return tuple(maps[index] for index in self._tapped)
        x = self.act2(self.bn2(self.conv_head(self.blocks(x))))
        logits: Tensor = self.classifier(self.global_pool(x).flatten(1))
        return logits


def _build_stage(
    stage: Stage, repeats: int, in_channels: int, out_channels: int, variant: Variant
) -> nn.Sequential:
    blocks: list[nn.Module] = []
    for index in range(repeats):
        stride = stage.stride if index == 0 else 1
        kind = DepthwiseSeparable if stage.expand_ratio == 1 else InvertedResidual
        blocks.append(kind(in_channels, out_channels, stride, variant, stage))
        in_channels = out_channels
    return nn.Sequential(*blocks)
