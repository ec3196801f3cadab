"""MLLA networks as data (arXiv 2405.16605; LeapLabTHU/MLLA ``cfgs/mlla_{t,s,b}.yaml``).

The paper's later versions and its authors call the same networks MILA.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """A whole network; ``depths`` and ``heads`` are by stage, at strides 4, 8, 16 and 32.

    A stage is twice as wide as the one before it, the first one ``embed_dim``. ``timm_name`` is
    the authors' own name: timm has none of these networks. ``native_size`` is the square input
    it is published at, in pixels; ``published_top1_percent`` is ImageNet-1k accuracy there.
    """

    name: str
    timm_name: str
    native_size: int
    embed_dim: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    published_top1_percent: float | None = None
    mlp_ratio: int = 4


VARIANTS = (
    Variant("mlla-t", "mlla_tiny", 224, 64, (2, 4, 8, 4), (2, 4, 8, 16), 83.5),
    Variant("mlla-s", "mlla_small", 224, 64, (3, 6, 21, 6), (2, 4, 8, 16), 84.4),
    Variant("mlla-b", "mlla_base", 224, 96, (3, 6, 21, 6), (3, 6, 12, 24), 85.3),
)
