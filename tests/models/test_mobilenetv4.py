"""Structure and arithmetic of the networks against independently written formulas."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from mnv4_deploy.models import zoo
from mnv4_deploy.models.mobile_mqa import MobileMqaBlock, MultiQueryAttention

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


@pytest.mark.parametrize(("name", "channels"), FEATURES.items())
def test_feature_maps(name: str, channels: tuple[int, ...]) -> None:
    with torch.device("meta"):
        model = zoo.build(name, features_only=True)
        maps = model(torch.empty(2, 3, 64, 96))
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
    with torch.device("meta"):
        model = zoo.build(name, features_only=True)
        maps = model(torch.empty(1, 3, *size))
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


def random_attention(kv_stride: int) -> MultiQueryAttention:
    generator = torch.Generator().manual_seed(5)
    layer = MultiQueryAttention(24, heads=3, key_dim=8, kv_stride=kv_stride).double().eval()
    for tensor in layer.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(-0.5, 0.5, generator=generator)
    for norm in layer.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None:
            norm.running_var.uniform_(0.5, 2, generator=generator)
    return layer


def attention_in_loops(layer: MultiQueryAttention, x_hwc: np.ndarray) -> np.ndarray:
    """TensorFlow's layer in NHWC, one query and one head at a time, for one image."""
    state = {key: value.numpy() for key, value in layer.state_dict().items()}

    def keys_or_values(part: str) -> np.ndarray:
        source = x_hwc
        if f"{part}.down_conv.weight" in state:
            kernel = state[f"{part}.down_conv.weight"][:, 0]  # [C, 3, 3]
            padded = np.pad(x_hwc, ((1, 1), (1, 1), (0, 0)))
            height, width = (-(-side // 2) for side in x_hwc.shape[:2])
            source = np.empty((height, width, x_hwc.shape[2]))
            for row in range(height):
                for column in range(width):
                    window = padded[2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
                    source[row, column] = np.einsum("ijc,cij->c", window, kernel)
            mean, variance = (state[f"{part}.norm.running_{s}"] for s in ("mean", "var"))
            gamma, beta = state[f"{part}.norm.weight"], state[f"{part}.norm.bias"]
            source = (source - mean) / np.sqrt(variance + 1e-5) * gamma + beta
        kernel_oi: np.ndarray = state[f"{part}.proj.weight"][:, :, 0, 0]
        return np.asarray(source.reshape(-1, source.shape[2]) @ kernel_oi.T)

    keys, values = keys_or_values("key"), keys_or_values("value")
    w_query = state["query.proj.weight"][:, :, 0, 0]
    w_output = state["output.proj.weight"][:, :, 0, 0]
    result = np.empty_like(x_hwc)
    for position in np.ndindex(x_hwc.shape[:2]):
        query = w_query @ x_hwc[position]
        heads = []
        for head in range(layer.heads):
            d = layer.key_dim
            logits = keys @ query[head * d : (head + 1) * d] / np.sqrt(d)
            weights = np.exp(logits - logits.max())
            heads.append((weights / weights.sum()) @ values)
        result[position] = w_output @ np.concatenate(heads)
    return result


@pytest.mark.parametrize("kv_stride", [1, 2])
@pytest.mark.parametrize("size", [(6, 6), (5, 8), (7, 3)])
def test_attention_is_tensorflows_formula(kv_stride: int, size: tuple[int, int]) -> None:
    layer = random_attention(kv_stride)
    generator = torch.Generator().manual_seed(6)
    x = 2 * torch.randn(1, 24, *size, generator=generator, dtype=torch.float64)
    with torch.inference_mode():
        actual = layer(x)[0].permute(1, 2, 0).numpy()
    expected = attention_in_loops(layer, x[0].permute(1, 2, 0).numpy())
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-12)


def test_attention_without_stride_commutes_with_permuting_pixels() -> None:
    layer = random_attention(1)
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(2, 24, 4, 6, generator=generator, dtype=torch.float64)
    order = torch.randperm(24, generator=generator)

    def permuted(t: torch.Tensor) -> torch.Tensor:
        return t.flatten(2)[..., order].reshape(t.shape)

    with torch.inference_mode():
        torch.testing.assert_close(layer(permuted(x)), permuted(layer(x)))
        assert not torch.allclose(layer(permuted(x)), layer(x))
