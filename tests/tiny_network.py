"""A MobileNetV4 of a few blocks, for what a published one shows no better and slowly."""

from __future__ import annotations

from mnv4_deploy.models.networks.mobilenetv4_variants import ConvBlock, MqaBlock, UibBlock, Variant

# Every kind of block, both attentions: with and without a stride in keys and values.
TINY = Variant(
    name="tiny",
    timm_name="",
    native_size=64,
    stem_channels=8,
    stages=(
        (UibBlock(3, 5, 2, 2, 16), UibBlock(3, 0, 1, 2, 16)),
        (UibBlock(0, 3, 2, 2, 24), MqaBlock(2, 8, 2, 24), UibBlock(0, 0, 1, 2, 24)),
        (MqaBlock(2, 8, 1, 24),),
        (ConvBlock(1, 1, 32),),
    ),
    layer_scale_init=0.1,
    head_channels=40,
)
