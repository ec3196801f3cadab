"""Networks of inverted residuals as data: MobileNetV2 and EfficientNet-Lite.

Sources: MobileNetV2, arXiv 1801.04381, table 2. EfficientNet-Lite, tensorflow/tpu
``models/official/efficientnet/lite`` (blocks and scaling factors in its builder, parameters,
multiply-adds and accuracies in its README): EfficientNet-B0's blocks without
squeeze-and-excite, ReLU6 instead of swish, stem and head not scaled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Padding = Literal["symmetric", "same"]


@dataclass(frozen=True)
class Stage:
    """``repeats`` inverted residuals, the first of which has the stride and changes the width."""

    kernel: int
    stride: int
    expand_ratio: int
    out_channels: int
    repeats: int


@dataclass(frozen=True)
class Variant:
    """A whole network. ``native_size`` is the square input it is published at, in pixels.

    ``width`` and ``depth`` scale the stages (not stem and head; ``depth`` leaves the first and
    the last stage alone). ``padding`` "same" is TensorFlow's, which at stride 2 pads an even
    side more at its end. ``published_top1_percent`` is ImageNet-1k accuracy at that size.
    """

    name: str
    timm_name: str
    native_size: int
    stages: tuple[Stage, ...]
    padding: Padding
    norm_eps: float
    width: float = 1.0
    depth: float = 1.0
    stem_channels: int = 32
    head_channels: int = 1280
    published_top1_percent: float | None = None


_MOBILENETV2 = (
    Stage(3, 1, 1, 16, 1),
    Stage(3, 2, 6, 24, 2),
    Stage(3, 2, 6, 32, 3),
    Stage(3, 2, 6, 64, 4),
    Stage(3, 1, 6, 96, 3),
    Stage(3, 2, 6, 160, 3),
    Stage(3, 1, 6, 320, 1),
)

_EFFICIENTNET_B0 = (
    Stage(3, 1, 1, 16, 1),
    Stage(3, 2, 6, 24, 2),
    Stage(5, 2, 6, 40, 2),
    Stage(3, 2, 6, 80, 3),
    Stage(5, 1, 6, 112, 3),
    Stage(5, 2, 6, 192, 4),
    Stage(3, 1, 6, 320, 1),
)

MOBILENETV2 = (
    Variant(
        name="mobilenetv2-100",
        timm_name="mobilenetv2_100",
        native_size=224,
        stages=_MOBILENETV2,
        padding="symmetric",
        norm_eps=1e-5,
        published_top1_percent=72.0,
    ),
)

# Width, depth, side in pixels, top-1.
_LITE = (
    (1.0, 1.0, 224, 75.1),
    (1.0, 1.1, 240, 76.7),
    (1.1, 1.2, 260, 77.6),
    (1.2, 1.4, 280, 79.8),
    (1.4, 1.8, 300, 81.5),
)

EFFICIENTNET_LITE = tuple(
    Variant(
        name=f"efficientnet-lite{number}",
        timm_name=f"tf_efficientnet_lite{number}",
        native_size=side,
        stages=_EFFICIENTNET_B0,
        padding="same",
        norm_eps=1e-3,
        width=width,
        depth=depth,
        published_top1_percent=top1_percent,
    )
    for number, (width, depth, side, top1_percent) in enumerate(_LITE)
)
