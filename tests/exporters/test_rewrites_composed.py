"""The whole TFLite chain on real models: exact in float64, and nothing left to fold."""

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from mnv4_deploy.exporters.rewrites.chains import rewrite
from mnv4_deploy.models import zoo
from mnv4_deploy.models.networks import mlla_variants
from mnv4_deploy.models.networks.cascaded_group_attention import CascadedGroupAttention
from mnv4_deploy.models.networks.layers import LayerScale
from mnv4_deploy.models.networks.mlla import Mlla
from mnv4_deploy.models.networks.mobile_mqa import MultiQueryAttention
from mnv4_deploy.models.randomize import randomize

# Square and even; neither. At a stride of 32 these are the smallest with a border and no interior.
SIZES = ((64, 64), (65, 97))
# Other attentions are tested at many sizes in small networks; here, one whole model of each. An
# MLLA takes as long as all others together, so each of its stages has but one of its blocks.
OTHERS = {"efficientvit": "efficientvit-m1", "mlla": "mlla-t"}
# The smallest with each arrangement of blocks; the others differ from them in widths and depths.
AT_ALL_SIZES = (
    *("conv-s-035", "conv-m", "hybrid-m-075", "hybrid-l-075"),
    *("efficientnet-lite0", "mobilenetv2-100"),
)
CASES = [
    *(
        (name, SIZES if name in AT_ALL_SIZES else SIZES[-1:])
        for name in zoo.names()
        if zoo.entry(name).family not in OTHERS
    ),
    *((name, SIZES[-1:]) for name in OTHERS.values()),
]
FOLDED = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, LayerScale),
    *(MultiQueryAttention, CascadedGroupAttention),
)


def shallow_mlla() -> nn.Module:
    """MLLA-T's widths and heads, in float64."""
    (variant,) = (v for v in mlla_variants.VARIANTS if v.name == OTHERS["mlla"])
    network = Mlla(replace(variant, depths=(1,) * len(variant.depths)))
    randomize(network, 0)
    return network.double()


@pytest.mark.parametrize(("name", "sizes"), CASES, ids=[name for name, _ in CASES])
def test_chain_is_exact(
    name: str, sizes: tuple[tuple[int, int], ...], random_module: Callable[[str], nn.Module]
) -> None:
    reference = shallow_mlla() if "mlla" in name else copy.deepcopy(random_module(name)).double()
    for height, width in sizes:
        x = torch.randn(1, 3, height, width, dtype=torch.float64)
        rewritten = rewrite(reference, "tflite", (height, width))
        with torch.no_grad():
            expected, actual = reference(x), rewritten.module(x)
        assert expected.std() > 1e-3
        error = (actual - expected).abs().max() / expected.abs().max()
        assert error <= 1e-9, f"{height}x{width}"
        for layer in rewritten.module.modules():
            assert not isinstance(layer, FOLDED)
