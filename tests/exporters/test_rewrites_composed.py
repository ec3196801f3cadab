"""The whole TFLite chain on the zoo's networks: exact in float64, and nothing left to fold."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from mnv4_deploy.exporters.rewrites.chains import rewrite
from mnv4_deploy.models import zoo
from mnv4_deploy.models.networks.cascaded_group_attention import CascadedGroupAttention
from mnv4_deploy.models.networks.efficientvit import EfficientVit
from mnv4_deploy.models.networks.inverted_residual import InvertedResidualNet
from mnv4_deploy.models.networks.layers import LayerScale
from mnv4_deploy.models.networks.mlla import Mlla
from mnv4_deploy.models.networks.mobile_mqa import MultiQueryAttention
from mnv4_deploy.models.networks.mobilenetv4 import MobileNetV4
from mnv4_deploy.models.randomize import randomize

# Square and even; neither. At a stride of 32 these are the smallest with a border and no interior.
SIZES = ((64, 64), (65, 97))
CLASSES = 10


def narrow(name: str, make: Callable[..., nn.Module], **widths: object) -> nn.Module:
    """A network of the zoo with all its blocks, but few channels: no rewrite counts them."""
    return make(replace(zoo.entry(name).variant, **widths), num_classes=CLASSES)  # type: ignore[type-var]


_mobilenetv4 = partial(narrow, make=MobileNetV4, width=0.25, head_channels=64)
# At half the width no two stages that follow without a stride become as wide, which would add
# a residual.
_inverted_residual = partial(narrow, make=InvertedResidualNet, width=0.5, head_channels=64)
# Each arrangement of blocks; what is not here differs in widths, or in depth between two of these.
AT_ALL_SIZES: dict[str, Callable[[str], nn.Module]] = {
    **dict.fromkeys(("conv-s", "conv-m", "hybrid-m", "hybrid-l"), _mobilenetv4),
    **dict.fromkeys(("efficientnet-lite0", "mobilenetv2-100"), _inverted_residual),
}
AT_ONE_SIZE: dict[str, Callable[[str], nn.Module]] = {
    "conv-l": _mobilenetv4,
    "efficientnet-lite4": _inverted_residual,
    # Other attentions are tested at many sizes in small networks; here, one network of each. An
    # MLLA takes as long as all others together, so each of its stages has but one of its blocks.
    "efficientvit-m1": partial(narrow, make=EfficientVit, channels=(32, 36, 48)),
    "mlla-t": partial(narrow, make=Mlla, embed_dim=16, depths=(1, 1, 1, 1)),
}
FOLDED = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, LayerScale),
    *(MultiQueryAttention, CascadedGroupAttention),
)


def test_each_arrangement_of_blocks_is_among_them() -> None:
    def arrangements(names: Iterable[str]) -> set[tuple[str, object]]:
        entries = map(zoo.entry, names)
        return {(e.family, getattr(e.variant, "stages", None)) for e in entries}

    assert arrangements([*AT_ALL_SIZES, *AT_ONE_SIZE]) == arrangements(zoo.names())


@pytest.mark.parametrize("name", [*AT_ALL_SIZES, *AT_ONE_SIZE])
def test_chain_is_exact(name: str) -> None:
    reference = (AT_ALL_SIZES | AT_ONE_SIZE)[name](name)
    randomize(reference, 0)
    reference.double()
    for height, width in SIZES if name in AT_ALL_SIZES else SIZES[-1:]:
        x = torch.randn(1, 3, height, width, dtype=torch.float64)
        rewritten = rewrite(reference, "tflite", (height, width))
        with torch.no_grad():
            expected, actual = reference(x), rewritten.module(x)
        assert expected.std() > 1e-3
        error = (actual - expected).abs().max() / expected.abs().max()
        assert error <= 1e-9, f"{height}x{width}"
        for layer in rewritten.module.modules():
            assert not isinstance(layer, FOLDED)
