"""MobileNetV4s of a few blocks, for what a published one shows no better and slowly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mnv4_deploy.models import zoo
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
# A convolutional one: strides, depthwise convolutions, a residual.
CONV_TINY = Variant(
    name="conv-tiny",
    timm_name="",
    native_size=64,
    stem_channels=16,
    stages=((ConvBlock(3, 2, 16),), (UibBlock(3, 5, 2, 2, 24), UibBlock(0, 3, 1, 2, 24))),
    head_channels=320,
)
# The least that an export is asked for.
SMALL_EXPORT: dict[str, Any] = {
    "model": CONV_TINY.name,
    "weights": "random",
    "size": (32, 32),
    "num_classes": 10,
    "evaluation_images": 16,
    "calibration_images": 16,
}


def put_into_zoo(variant: Variant, patch: pytest.MonkeyPatch) -> None:
    """Let commands and requests of this process know ``variant`` by its name."""
    known = zoo.entry
    added = replace(known("conv-s-035"), name=variant.name, timm_name="", variant=variant)
    patch.setattr(zoo, "entry", lambda name: added if name == variant.name else known(name))
