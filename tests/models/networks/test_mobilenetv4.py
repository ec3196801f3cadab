"""Structure and arithmetic of the networks against independently written formulas."""

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import nn

from mnv4_deploy.models import zoo
from mnv4_deploy.models.networks.mobile_mqa import MobileMqaBlock

FEATURES = {
    "conv-s": (32, 64, 96, 960),
    "conv-m": (48, 80, 160, 960),
    "conv-l": (48, 96, 192, 960),
    "hybrid-m": (48, 80, 160, 960),
    "hybrid-l": (48, 96, 192, 960),
}
ATTENTION = {  # stage -> parameters of a block and of the attention in it, (4 blocks each)
    "hybrid-m": {2: (106_400, 105_920), 3: (164_608, 163_840)},
    "hybrid-l": {2: (170_688, 170_112), 3: (591_360, 589_824)},
}


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@cache
def features_of(name: str) -> nn.Module:
    """A network on the meta device, that gives features."""
    with torch.device("meta"):
        return zoo.build(name, features_only=True)


@pytest.mark.parametrize(("name", "channels"), FEATURES.items())
def test_feature_maps(name: str, channels: tuple[int, ...]) -> None:
    model = features_of(name)
    maps = model(torch.empty(2, 3, 64, 96, device="meta"))
    assert model.feature_channels == channels
    assert [tuple(m.shape) for m in maps] == [
        (2, c, 64 // s, 96 // s) for c, s in zip(channels, (4, 8, 16, 32), strict=True)
    ]
    assert not [key for key in model.state_dict() if key.startswith(("conv_head", "classifier"))]


def test_features_are_those_the_classifier_sees(random_module: Callable[[str], nn.Module]) -> None:
    model = random_module("conv-s-035")
    features = zoo.build("conv-s-035", features_only=True)
    features.load_state_dict({k: model.state_dict()[k] for k in features.state_dict()})
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        pooled = features(image)[-1].mean((2, 3), keepdim=True)
        head = pooled
        for part in ("conv_head", "norm_head", "act2"):
            head = model.get_submodule(part)(head)
        logits = model.get_submodule("classifier")(head.flatten(1))
        torch.testing.assert_close(logits, model(image))


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("size", [(32, 32), (33, 65), (97, 40), (224, 223)])
def test_odd_and_non_square_sizes(name: str, size: tuple[int, int]) -> None:
    maps = features_of(name)(torch.empty(1, 3, *size, device="meta"))
    for feature, stride in zip(maps, (4, 8, 16, 32), strict=True):
        # Symmetric padding: every stride-2 step rounds up.
        assert tuple(feature.shape[2:]) == tuple(-(-side // stride) for side in size)


def test_hybrids_run_on_an_odd_non_square_image(
    random_module: Callable[[str], nn.Module],
) -> None:
    with torch.inference_mode():
        logits = random_module("hybrid-m-075")(torch.randn(2, 3, 75, 50))
    assert logits.shape == (2, 1000)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_blocks(name: str) -> None:
    with torch.device("meta"):
        model = zoo.build(name)
    for stage, (block_parameters, attention_parameters) in ATTENTION[name].items():
        found = [
            block
            for block in model.get_submodule(f"blocks.{stage}").children()
            if isinstance(block, MobileMqaBlock)
        ]
        assert [parameters(block) for block in found] == 4 * [block_parameters]
        assert [parameters(block.attn) for block in found] == 4 * [attention_parameters]


@pytest.mark.parametrize(
    "name",
    [name for name in zoo.names() if zoo.entry(name).family not in ("efficientvit", "mlla")],
)
def test_only_hybrids_have_attention_and_layer_scale(name: str) -> None:
    with torch.device("meta"):
        keys = set(zoo.build(name).state_dict())
    for part in ("layer_scale", "attn"):
        assert any(part in key for key in keys) == name.startswith("hybrid")
