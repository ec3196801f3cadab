"""The models that can be built by name. Importing this imports no torch.

A family adds itself with one line in ``FAMILIES``: a table of variants (objects with the
fields of :class:`Variant`) and a function that imports the class which builds one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from mnv4_deploy.errors import InputError, UnknownModelError
from mnv4_deploy.models.networks import (
    efficientvit_variants,
    inverted_residual_variants,
    mlla_variants,
    mobilenetv4_variants,
)
from mnv4_deploy.models.records import IMAGENET_MEAN, IMAGENET_STD, Interpolation, Preprocessing

if TYPE_CHECKING:
    from torch import nn

MAX_SIDE = 4096
_TAG = re.compile(r"\w*in[0-9]+k", re.ASCII)


class Variant(Protocol):
    """What every family's variant record has in common."""

    @property
    def name(self) -> str: ...
    @property
    def timm_name(self) -> str: ...
    @property
    def native_size(self) -> int: ...
    @property
    def published_top1_percent(self) -> float | None: ...


class Network(Protocol):
    """A family's class: makes an untrained network of one of its variants, in training mode."""

    def __call__(self, variant: Any, *, num_classes: int, features_only: bool) -> nn.Module: ...


@dataclass(frozen=True)
class Family:
    """Networks of one class. ``min_size`` is the smallest legal input side in pixels.

    ``network`` imports the class, and torch with it: it is called when a model is built.
    ``mean``, ``std``, ``crop_pct`` and ``interpolation`` are those of ``Preprocessing``, for
    weights that do not come with their own.
    """

    name: str
    variants: Sequence[Variant]
    network: Callable[[], Network]
    min_size: int = 32
    stride: int = 32
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    crop_pct: float = 1.0
    interpolation: Interpolation = "bicubic"


def _mobilenetv4() -> Network:
    from mnv4_deploy.models.networks.mobilenetv4 import MobileNetV4

    return MobileNetV4


def _inverted_residual() -> Network:
    from mnv4_deploy.models.networks.inverted_residual import InvertedResidualNet

    return InvertedResidualNet


def _efficientvit() -> Network:
    from mnv4_deploy.models.networks.efficientvit import EfficientVit

    return EfficientVit


def _mlla() -> Network:
    from mnv4_deploy.models.networks.mlla import Mlla

    return Mlla


FAMILIES: tuple[Family, ...] = (
    Family("mobilenetv4", mobilenetv4_variants.VARIANTS, _mobilenetv4),
    Family(
        "efficientnet-lite",
        inverted_residual_variants.EFFICIENTNET_LITE,
        _inverted_residual,
        # MEAN_RGB and STDDEV_RGB of tensorflow/tpu efficientnet_lite_builder.py.
        mean=(127 / 255, 127 / 255, 127 / 255),
        std=(128 / 255, 128 / 255, 128 / 255),
        crop_pct=0.875,
    ),
    Family(
        "mobilenetv2",
        inverted_residual_variants.MOBILENETV2,
        _inverted_residual,
        crop_pct=0.875,
        interpolation="bilinear",
    ),
    Family(
        "efficientvit",
        efficientvit_variants.VARIANTS,
        _efficientvit,
        stride=64,
        crop_pct=0.875,
    ),
    Family(
        "mlla",
        mlla_variants.VARIANTS,
        _mlla,
        # data/build.py of LeapLabTHU/MLLA: the shorter side to 256 / 224 of the crop.
        crop_pct=0.875,
    ),
)


@dataclass(frozen=True)
class ZooEntry:
    """A model by name. Sizes are in pixels; ``stride`` is that of the coarsest feature map.

    ``preprocessing`` is for weights that do not come with their own, at ``native_size``.
    """

    name: str
    timm_name: str
    family: str
    native_size: int
    published_top1_percent: float | None
    min_size: int
    stride: int
    network: Callable[[], Network]
    variant: Variant
    preprocessing: Preprocessing

    def builder(self, *, num_classes: int = 1000, features_only: bool = False) -> nn.Module:
        """Import the network's class and construct it, in training mode."""
        network = self.network()
        return network(self.variant, num_classes=num_classes, features_only=features_only)


@cache
def _entries() -> dict[str, ZooEntry]:
    return {
        variant.name: ZooEntry(
            name=variant.name,
            timm_name=variant.timm_name,
            family=family.name,
            native_size=variant.native_size,
            published_top1_percent=variant.published_top1_percent,
            min_size=family.min_size,
            stride=family.stride,
            network=family.network,
            variant=variant,
            preprocessing=Preprocessing(
                height=variant.native_size,
                width=variant.native_size,
                mean=family.mean,
                std=family.std,
                crop_pct=family.crop_pct,
                interpolation=family.interpolation,
            ),
        )
        for family in FAMILIES
        for variant in family.variants
    }


def names() -> tuple[str, ...]:
    """All model names, in the order of their families."""
    return tuple(_entries())


@cache
def _spellings() -> dict[str, str]:
    """Our name of each model by the names it goes by: ours, and that of timm or its authors."""
    return {spelling: e.name for e in _entries().values() for spelling in (e.timm_name, e.name)}


def entry(name: str) -> ZooEntry:
    """Look a model up by our name or timm's; a tag behind the latter names weights: ``split_tag``.

    Raises:
        UnknownModelError: no such model; the message has the nearest ones.
    """
    spellings = _spellings()
    if (own := spellings.get(split_tag(name)[0])) is not None:
        return _entries()[own]
    plain = {spelling.replace("_", "-"): own for spelling, own in spellings.items()}
    nearest = difflib.get_close_matches(name.lower().replace("_", "-"), plain, n=1)
    hint = f"did you mean '{plain[nearest[0]]}'? " if nearest else ""
    raise UnknownModelError(
        f"There is no model '{name}'; {hint}`mnv4-deploy models` lists the {len(_entries())} "
        "there are."
    )


def split_tag(name: str) -> tuple[str, str]:
    """timm's whole name of a checkpoint, ``[timm/]architecture[.tag]``, in two."""
    architecture, dot, tag = name.removeprefix("timm/").partition(".")
    # Tags end in the data set: what else has a dot is a file's name.
    return (architecture, tag) if not dot or _TAG.fullmatch(tag) else (name, "")


def build(name: str, *, num_classes: int = 1000, features_only: bool = False) -> nn.Module:
    """Build a model in eval mode, with its initial (untrained) values.

    With ``features_only`` it returns the last map of each resolution from
    stride 4 (EfficientViT: 16) on, and has no classifier.

    Raises:
        UnknownModelError: no such model.
        InputError: ``num_classes`` is not positive.
    """
    found = entry(name)
    if num_classes < 1:
        raise InputError(f"The number of classes must be at least 1, not {num_classes}.")
    return found.builder(num_classes=num_classes, features_only=features_only).eval()


def parse_size(text: str) -> tuple[int, int]:
    """``"256"`` is (256, 256); ``"192x320"`` is height 192, width 320.

    Raises:
        InputError: neither form.
    """
    match = re.fullmatch(r"\s*(\d{1,9})(?:\s*[xX]\s*(\d{1,9}))?\s*", text, re.ASCII)
    if match is None:
        raise InputError(
            f"'{text}' is not an input size; write one side as 256 or height x width as 192x320."
        )
    height = int(match[1])
    return height, int(match[2]) if match[2] else height


def check_size(name: str, size: tuple[int, int]) -> tuple[int, int]:
    """Return ``size`` (height, width in pixels) if the model can take it.

    Raises:
        UnknownModelError: no such model.
        InputError: a side is below the model's minimum or absurdly large.
    """
    found = entry(name)
    for side in size:
        if not found.min_size <= side <= MAX_SIDE:
            raise InputError(
                f"{name} cannot take an input of {size[0]}x{size[1]}; choose sides from "
                f"{found.min_size} to {MAX_SIDE} pixels (its native size is "
                f"{found.native_size}x{found.native_size})."
            )
    return size
