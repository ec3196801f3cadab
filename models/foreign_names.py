"""Tensor names of other implementations of the reference networks, translated into timm's.

Known: MobileNetV2 as torchvision names it, EfficientNet-Lite as the PyTorch ports of
EfficientNet do that derive from the package efficientnet-pytorch, and EfficientViT as its authors
do (microsoft/Cream).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_EXPANDING = ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")
_PLAIN = ("conv_dw", "bn1", "conv_pw", "bn2")


@dataclass(frozen=True)
class _Naming:
    """How one implementation names a network of inverted residuals.

    ``outer`` are the layers around the blocks, the stem's convolution first. Blocks are numbered
    behind ``prefix``; ``expanding`` and ``plain`` are the layers of one that expands and of one
    that does not, in the order of ``_EXPANDING`` and ``_PLAIN``.
    """

    outer: Mapping[str, str]
    prefix: str
    expanding: tuple[str, ...]
    plain: tuple[str, ...]


_NAMINGS = (
    _Naming(
        outer={
            "features.0.0": "conv_stem",
            "features.0.1": "bn1",
            "features.18.0": "conv_head",
            "features.18.1": "bn2",
            "classifier.1": "classifier",
        },
        prefix="features.",
        expanding=("conv.0.0", "conv.0.1", "conv.1.0", "conv.1.1", "conv.2", "conv.3"),
        plain=("conv.0.0", "conv.0.1", "conv.1", "conv.2"),
    ),
    _Naming(
        outer={
            "_conv_stem": "conv_stem",
            "_bn0": "bn1",
            "_conv_head": "conv_head",
            "_bn1": "bn2",
            "_fc": "classifier",
        },
        prefix="_blocks.",
        expanding=("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2"),
        plain=("_depthwise_conv", "_bn1", "_project_conv", "_bn2"),
    ),
)

# The first convolution by each name it has: ours (timm's) and those of the others.
STEMS = (
    "conv_stem.weight",
    "patch_embed.conv1.conv.weight",
    "patch_embed.0.c.weight",
    *(f"{next(iter(naming.outer))}.weight" for naming in _NAMINGS),
)


def to_timm_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors by timm's names if a known implementation's stem is among them.

    Names that are not known stay as they are.
    """
    for naming in _NAMINGS:
        if f"{next(iter(naming.outer))}.weight" in tensors:
            layers = {**naming.outer, **_blocks(tensors, naming)}
            return {_renamed(name, layers): tensor for name, tensor in tensors.items()}
    if "patch_embed.0.c.weight" in tensors:
        return {_efficientvit(name): tensor for name, tensor in tensors.items()}
    return tensors


def _efficientvit(name: str) -> str:
    """timm's name of a tensor of the published EfficientViT.

    They number the layers of the patch embedding with the ReLUs between them, and a stage's
    blocks behind the three parts of its subsampling, which the first stage does not have.
    """
    steps = ["conv" if s == "c" else "linear" if s == "l" else s for s in name.split(".")]
    if steps[0] == "patch_embed":
        steps[1] = f"conv{int(steps[1]) // 2 + 1}"
    elif (found := re.fullmatch(r"blocks([123])", steps[0])) is not None:
        stage, index = int(found[1]) - 1, int(steps[1])
        parts = ("res1", "patchmerge", "res2") if stage else ()
        place = (
            ["downsample", parts[index]]
            if index < len(parts)
            else ["blocks", str(index - len(parts))]
        )
        steps = ["stages", str(stage), *place, *steps[2:]]
    return ".".join(steps)


def _renamed(name: str, layers: Mapping[str, str]) -> str:
    layer, _, value = name.rpartition(".")
    return f"{layers[layer]}.{value}" if layer in layers else name


def _blocks(tensors: Mapping[str, Tensor], naming: _Naming) -> dict[str, str]:
    """Our name of each layer of a block by theirs.

    They number the blocks throughout, timm by stage: a block that changes the width begins a
    stage, which holds for these networks.
    """
    number = re.compile(re.escape(naming.prefix) + r"(\d+)\.", re.ASCII)
    numbers = {int(found[1]) for name in tensors if (found := number.match(name))}
    names: dict[str, str] = {}
    stage, index, width = -1, 0, None
    for block in (f"{naming.prefix}{n}" for n in sorted(numbers)):
        expands = all(f"{block}.{layer}.weight" in tensors for layer in naming.expanding)
        theirs, ours = (naming.expanding, _EXPANDING) if expands else (naming.plain, _PLAIN)
        projection = tensors.get(f"{block}.{theirs[-2]}.weight")
        if projection is None:
            continue  # the stem and the head of torchvision are numbered, too
        stage, index = (stage, index + 1) if projection.shape[:1] == width else (stage + 1, 0)
        width = projection.shape[:1]
        pairs = zip(theirs, ours, strict=True)
        names |= {f"{block}.{a}": f"blocks.{stage}.{index}.{b}" for a, b in pairs}
    return names
