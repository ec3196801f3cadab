"""EfficientViT M0 to M5 as data (arXiv 2305.07027, table 2; microsoft/Cream ``EfficientViT``).

Top-1 is that of the evaluation log published with the checkpoints (ImageNet-1k, 224 px).
"""

from __future__ import annotations

from dataclasses import dataclass

KEY_DIM = 16
WINDOW = 7
PATCH = 16


@dataclass(frozen=True)
class Variant:
    """One network; a tuple's entries are its three stages, those of ``kernels`` the heads.

    ``kernels`` are the sides of the depthwise convolutions on the queries of each head; stages
    with fewer heads use the first ones. ``native_size`` is in pixels.
    """

    name: str
    timm_name: str
    channels: tuple[int, int, int]
    depths: tuple[int, int, int]
    heads: tuple[int, int, int]
    kernels: tuple[int, ...]
    published_top1_percent: float
    native_size: int = 224

    @property
    def window_sides(self) -> tuple[int, int, int]:
        """Side of each stage's windows: 7, or the whole map where it is smaller at native size.

        They are part of the weights: a window of side R has R * R position biases a head.
        """
        first = self.native_size // PATCH
        second = (first - 1) // 2 + 1
        maps = (first, second, (second - 1) // 2 + 1)
        return tuple(min(WINDOW, side) for side in maps)  # type: ignore[return-value]


VARIANTS = (
    Variant(
        "efficientvit-m0",
        "efficientvit_m0",
        channels=(64, 128, 192),
        depths=(1, 2, 3),
        heads=(4, 4, 4),
        kernels=(5, 5, 5, 5),
        published_top1_percent=63.296,
    ),
    Variant(
        "efficientvit-m1",
        "efficientvit_m1",
        channels=(128, 144, 192),
        depths=(1, 2, 3),
        heads=(2, 3, 3),
        kernels=(7, 5, 3, 3),
        published_top1_percent=68.356,
    ),
    Variant(
        "efficientvit-m2",
        "efficientvit_m2",
        channels=(128, 192, 224),
        depths=(1, 2, 3),
        heads=(4, 3, 2),
        kernels=(7, 5, 3, 3),
        published_top1_percent=70.786,
    ),
    Variant(
        "efficientvit-m3",
        "efficientvit_m3",
        channels=(128, 240, 320),
        depths=(1, 2, 3),
        heads=(4, 3, 4),
        kernels=(5, 5, 5, 5),
        published_top1_percent=73.390,
    ),
    Variant(
        "efficientvit-m4",
        "efficientvit_m4",
        channels=(128, 256, 384),
        depths=(1, 2, 3),
        heads=(4, 4, 4),
        kernels=(7, 5, 3, 3),
        published_top1_percent=74.266,
    ),
    Variant(
        "efficientvit-m5",
        "efficientvit_m5",
        channels=(192, 288, 384),
        depths=(1, 3, 4),
        heads=(3, 3, 4),
        kernels=(7, 5, 3, 3),
        published_top1_percent=77.124,
    ),
)
