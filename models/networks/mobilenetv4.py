"""MobileNetV4 (arXiv 2404.10518) in the structure and with the tensor names of timm.

Padding is symmetric k//2 (timm's weights are trained so; TensorFlow's ``same`` differs at
stride 2). Shapes are NCHW; ``H`` and ``W`` need not be equal.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from mnv4_deploy.models.networks.layers import ConvNorm, LayerScale, make_divisible
from mnv4_deploy.models.networks.mobile_mqa import MobileMqaBlock
from mnv4_deploy.models.networks.mobilenetv4_variants import (
    Block,
    ConvBlock,
    FusedIbBlock,
    MqaBlock,
    UibBlock,
    Variant,
)

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


class ConvNormAct(nn.Module):
    """timm ``ConvBnAct``: ``conv``, ``bn1``, activation."""

    def __init__(self, in_channels: int, block: ConvBlock, act: type[nn.Module]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            block.out_channels,
            block.kernel,
            stride=block.stride,
            padding=block.kernel // 2,
            bias=False,
        )
        self.bn1 = nn.BatchNorm2d(block.out_channels)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.bn1(self.conv(x)))
        return y


class FusedInvertedBottleneck(nn.Module):
    """timm ``EdgeResidual`` without a residual: its input and output always differ in size."""

    def __init__(self, in_channels: int, block: FusedIbBlock, act: type[nn.Module]) -> None:
        super().__init__()
        expanded = make_divisible(in_channels * block.expand_ratio)
        self.conv_exp = nn.Conv2d(
            in_channels,
            expanded,
            block.kernel,
            stride=block.stride,
            padding=block.kernel // 2,
            bias=False,
        )
        self.bn1 = nn.BatchNorm2d(expanded)
        self.act = act()
        self.conv_pwl = nn.Conv2d(expanded, block.out_channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(block.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn2(self.conv_pwl(self.act(self.bn1(self.conv_exp(x)))))
        return y


class UniversalInvertedBottleneck(nn.Module):
    """Optional depthwise, 1x1 expand, optional depthwise, linear 1x1 project, layer scale.

    The stride sits on the middle depthwise (the variants never stride a block without one).
    """

    def __init__(
        self,
        in_channels: int,
        block: UibBlock,
        act: type[nn.Module],
        layer_scale_init: float | None,
    ) -> None:
        super().__init__()
        if block.stride > 1 and not block.middle_kernel:
            raise ValueError(f"{block} has a stride but no middle depthwise to carry it")
        expanded = make_divisible(in_channels * block.expand_ratio)
        self.dw_start = (
            ConvNorm(in_channels, in_channels, block.start_kernel, groups=in_channels)
            if block.start_kernel
            else nn.Identity()
        )
        self.pw_exp = ConvNorm(in_channels, expanded, 1, act=act)
        self.dw_mid = (
            ConvNorm(
                expanded,
                expanded,
                block.middle_kernel,
                stride=block.stride,
                groups=expanded,
                act=act,
            )
            if block.middle_kernel
            else nn.Identity()
        )
        self.pw_proj = ConvNorm(expanded, block.out_channels, 1)
        self.layer_scale = (
            nn.Identity()
            if layer_scale_init is None
            else LayerScale(block.out_channels, layer_scale_init)
        )
        self.has_skip = block.stride == 1 and in_channels == block.out_channels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.dw_mid(self.pw_exp(self.dw_start(x)))
        y = self.layer_scale(self.pw_proj(y))
        return x + y if self.has_skip else y


class MobileNetV4(nn.Module):
    """``[B, 3, H, W]`` to logits ``[B, num_classes]``.

    With ``features_only`` the output is the tuple of maps at strides 4, 8, 16 and 32 (the last
    one behind the closing 1x1 convolution, as timm's feature extractor gives it), and the
    classification head does not exist. H and W must be multiples of 32 only if each map must
    be exactly H/stride; any size from 32 up works, odd and non-square ones included.
    """

    def __init__(
        self, variant: Variant, *, num_classes: int = 1000, features_only: bool = False
    ) -> None:
        super().__init__()
        act = _ACTIVATIONS[variant.act]
        self.variant = variant
        self.features_only = features_only
        self.conv_stem = nn.Conv2d(3, variant.stem_channels, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(variant.stem_channels)
        self.act1 = act()
        channels = variant.stem_channels
        stages: list[nn.Module] = []
        self.feature_channels: tuple[int, ...] = ()
        for stage in variant.stages:
            layers: list[nn.Module] = []
            for block in stage:
                layer, channels = _build_block(block, channels, act, variant)
                layers.append(layer)
            stages.append(nn.Sequential(*layers))
            self.feature_channels += (channels,)
        # The last two stages share stride 32; only the later one is a feature map.
        self.feature_channels = (*self.feature_channels[:-2], channels)
        self.blocks = nn.Sequential(*stages)
        if not features_only:
            self.global_pool = nn.AdaptiveAvgPool2d(1)
            self.conv_head = nn.Conv2d(channels, variant.head_channels, 1, bias=False)
            self.norm_head = nn.BatchNorm2d(variant.head_channels)
            self.act2 = act()
            self.classifier = nn.Linear(variant.head_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        x = self.act1(self.bn1(self.conv_stem(x)))
        if self.features_only:
            maps: list[Tensor] = []
            for stage in self.blocks:
                x = stage(x)
                maps.append(x)
            return (*maps[:-2], maps[-1])
        x = self.global_pool(self.blocks(x))
        x = self.act2(self.norm_head(self.conv_head(x)))
        logits: Tensor = self.classifier(x.flatten(1))
        return logits


def _build_block(
    block: Block, in_channels: int, act: type[nn.Module], variant: Variant
) -> tuple[nn.Module, int]:
    block = replace(block, out_channels=make_divisible(block.out_channels * variant.width))
    layer: nn.Module
    match block:
        case ConvBlock():
            layer = ConvNormAct(in_channels, block, act)
        case FusedIbBlock():
            layer = FusedInvertedBottleneck(in_channels, block, act)
        case UibBlock():
            layer = UniversalInvertedBottleneck(in_channels, block, act, variant.layer_scale_init)
        case MqaBlock():
            layer = MobileMqaBlock(
                in_channels,
                heads=block.heads,
                key_dim=block.key_dim,
                kv_stride=block.kv_stride,
                layer_scale_init=variant.layer_scale_init,
            )
    return layer, block.out_channels
