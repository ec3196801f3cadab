"""EfficientViT against published counts and a second implementation."""

import math
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mnv4_deploy.models import zoo
from mnv4_deploy.models.macs import count_macs, count_parameters
from mnv4_deploy.models.networks.cascaded_group_attention import (
    CascadedGroupAttention,
    LocalWindowAttention,
)
from mnv4_deploy.models.networks.efficientvit import EfficientVit
from mnv4_deploy.models.networks.efficientvit_variants import Variant
from mnv4_deploy.models.randomize import randomize

# Channels, depths, heads and depthwise sides of the paper's table; parameters and MACs at 224 px.
NETWORKS = {
    "m0": ((64, 128, 192), (1, 2, 3), (4, 4, 4), (5, 5, 5, 5), 2_349_436, 79_193_600),
    "m1": ((128, 144, 192), (1, 2, 3), (2, 3, 3), (7, 5, 3, 3), 2_980_560, 167_051_840),
    "m2": ((128, 192, 224), (1, 2, 3), (4, 3, 2), (7, 5, 3, 3), 4_187_554, 201_035_712),
    "m3": ((128, 240, 320), (1, 2, 3), (4, 3, 4), (5, 5, 5, 5), 6_900_722, 262_662_208),
    "m4": ((128, 256, 384), (1, 2, 3), (4, 4, 4), (7, 5, 3, 3), 8_804_228, 299_308_544),
    "m5": ((192, 288, 384), (1, 3, 4), (3, 3, 4), (7, 5, 3, 3), 12_473_772, 521_583_104),
}
KEYS = 16
WINDOWS = (7, 7, 4)
SMALL = Variant("small", "", (16, 24, 32), (1, 1, 1), (2, 3, 2), (5, 3, 3), 0.0)
# The stages' maps of these are 3x6, 2x3, 1x2 and 8x11, 4x6, 2x3.
SIZES = ((33, 96), (128, 161))


class Tally:
    """Parameters and MACs of layers as they are added up."""

    def __init__(self) -> None:
        self.parameters = self.macs = 0

    def conv(self, before: int, after: int, side: int, at: int, *, groups: int = 1) -> None:
        """A convolution without a bias for ``at`` positions, and its norm."""
        weights = side * side * before // groups * after
        self.parameters += weights + 2 * after
        self.macs += weights * at

    def depthwise_and_ffn(self, c: int, at: int) -> None:
        self.conv(c, c, 3, at, groups=c)
        self.conv(c, 2 * c, 1, at)
        self.conv(2 * c, c, 1, at)

    def attention(self, c: int, kernels: tuple[int, ...], side: int, map_: int) -> None:
        heads = len(kernels)
        windows = 1 if map_ <= side else math.ceil(map_ / side) ** 2
        tokens = map_**2 if map_ <= side else side**2
        for kernel in kernels:
            self.conv(c // heads, 2 * KEYS + c // heads, 1, windows * tokens)
            self.conv(KEYS, KEYS, kernel, windows * tokens, groups=KEYS)
            self.macs += windows * tokens**2 * (KEYS + c // heads)
        self.conv(c, c, 1, windows * tokens)
        self.parameters += heads * side**2

    def merging(self, before: int, after: int, at: int, halved: int) -> None:
        wide = 4 * before
        self.conv(before, wide, 1, at)
        self.conv(wide, wide, 3, halved, groups=wide)
        # A quarter of the channels behind the pooling, which are multiples of 8 already.
        self.parameters += 2 * wide * before + before + wide
        self.macs += 2 * wide * before
        self.conv(wide, after, 1, halved)


def counted_by_hand(name: str, side: int) -> tuple[int, int]:
    channels, depths, heads, kernels, _, _ = NETWORKS[name]
    tally = Tally()
    widths = (3, channels[0] // 8, channels[0] // 4, channels[0] // 2, channels[0])
    for before, after in pairwise(widths):
        side = math.ceil(side / 2)
        tally.conv(before, after, 3, side**2)
    for stage, c in enumerate(channels):
        if stage:
            before, halved = channels[stage - 1], math.ceil(side / 2)
            tally.depthwise_and_ffn(before, side**2)
            tally.merging(before, c, side**2, halved**2)
            side = halved
            tally.depthwise_and_ffn(c, side**2)
        for _ in range(depths[stage]):
            tally.depthwise_and_ffn(c, side**2)
            tally.attention(c, kernels[: heads[stage]], WINDOWS[stage], side)
            tally.depthwise_and_ffn(c, side**2)
    classifier = channels[-1] * 1000
    return tally.parameters + 2 * channels[-1] + classifier + 1000, tally.macs + classifier


@pytest.mark.parametrize("name", NETWORKS)
def test_counts_to_the_unit(name: str) -> None:
    *_, parameters, macs = NETWORKS[name]
    assert counted_by_hand(name, 224) == (parameters, macs)
    with torch.device("meta"):
        model = zoo.build(f"efficientvit-{name}")
    assert count_parameters(model) == parameters
    assert count_macs(model, (224, 224)) == macs


def test_macs_count_the_padding() -> None:
    # 17x17, 9x9 and 5x5 positions: windows that need padding in every stage.
    assert count_macs("efficientvit-m1", (270, 270)) == counted_by_hand("m1", 270)[1]


# Arithmetic


def attention(window: int, heads: int = 3, channels: int = 12) -> CascadedGroupAttention:
    """In float64, no part near the identity; a kernel larger than some windows."""
    layer = CascadedGroupAttention(
        channels, heads=heads, key_dim=5, window=window, kernels=(5, 3, 7)[:heads]
    )
    generator = torch.Generator().manual_seed(heads)
    for key, tensor in layer.double().eval().state_dict().items():
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=generator)
        elif tensor.is_floating_point():
            tensor.normal_(0, 0.6, generator=generator)
    return layer


def normed(y_hwc: np.ndarray, state: dict[str, np.ndarray], name: str) -> np.ndarray:
    mean, variance = state[f"{name}.bn.running_mean"], state[f"{name}.bn.running_var"]
    gamma, beta = state[f"{name}.bn.weight"], state[f"{name}.bn.bias"]
    return np.asarray((y_hwc - mean) / np.sqrt(variance + 1e-5) * gamma + beta)


def pointwise(x_hwc: np.ndarray, state: dict[str, np.ndarray], name: str) -> np.ndarray:
    return normed(x_hwc @ state[f"{name}.conv.weight"][:, :, 0, 0].T, state, name)


def depthwise(x_hwc: np.ndarray, state: dict[str, np.ndarray], name: str) -> np.ndarray:
    kernel = state[f"{name}.conv.weight"][:, 0]
    height, width, side = *x_hwc.shape[:2], kernel.shape[1]
    padded = np.pad(x_hwc, ((side // 2, side // 2), (side // 2, side // 2), (0, 0)))
    y = np.zeros_like(x_hwc)
    for row, column in np.ndindex(height, width):
        patch = padded[row : row + side, column : column + side]
        y[row, column] = np.einsum("ijc,cij->c", patch, kernel)
    return normed(y, state, name)


def in_window(layer: CascadedGroupAttention, x_hwc: np.ndarray) -> np.ndarray:
    """Head by head and query by query; offsets numbered as the published code meets them."""
    state = {key: value.numpy() for key, value in layer.state_dict().items()}
    offsets: dict[tuple[int, int], int] = {}
    points = list(product(range(layer.window), repeat=2))
    for (y1, x1), (y2, x2) in product(points, repeat=2):
        offsets.setdefault((abs(y1 - y2), abs(x1 - x2)), len(offsets))
    positions = list(np.ndindex(x_hwc.shape[:2]))
    d, key = layer.value_dim, layer.key_dim
    before = np.zeros((*x_hwc.shape[:2], d))
    found = []
    for head in range(layer.heads):
        own = x_hwc[..., head * d : (head + 1) * d] + before
        qkv = pointwise(own, state, f"qkvs.{head}")
        queries = depthwise(qkv[..., :key], state, f"dws.{head}")
        before = np.zeros((*x_hwc.shape[:2], d))
        for y1, x1 in positions:
            logits = [
                queries[y1, x1] @ qkv[y2, x2, key : 2 * key] / math.sqrt(key)
                + state["attention_biases"][head, offsets[abs(y1 - y2), abs(x1 - x2)]]
                for y2, x2 in positions
            ]
            weights = np.exp(logits) / np.exp(logits).sum()
            before[y1, x1] = sum(
                weight * qkv[y2, x2, 2 * key :]
                for weight, (y2, x2) in zip(weights, positions, strict=True)
            )
        found.append(before)
    return pointwise(np.maximum(np.concatenate(found, axis=2), 0), state, "proj.1")


def in_windows(layer: CascadedGroupAttention, x_hwc: np.ndarray) -> np.ndarray:
    height, width, side = *x_hwc.shape[:2], layer.window
    if max(height, width) <= side:
        return in_window(layer, x_hwc)
    padded = np.pad(x_hwc, ((0, -height % side), (0, -width % side), (0, 0)))
    y = np.empty_like(padded)
    for row in range(0, padded.shape[0], side):
        for column in range(0, padded.shape[1], side):
            place = slice(row, row + side), slice(column, column + side)
            y[place] = in_window(layer, padded[place])
    return y[:height, :width]


@pytest.mark.parametrize(
    ("window", "size"),
    [
        pytest.param(4, (8, 8), id="whole-windows"),
        pytest.param(4, (5, 8), id="padded-below"),
        pytest.param(4, (9, 6), id="padded-on-both-sides"),
        pytest.param(4, (2, 7), id="lower-than-a-window"),
        pytest.param(4, (4, 4), id="one-window"),
        pytest.param(4, (3, 2), id="smaller-than-a-window"),
        pytest.param(7, (5, 7), id="of-side-7"),
        pytest.param(4, (1, 1), id="one-position"),
    ],
)
def test_attention_is_the_published_formula(window: int, size: tuple[int, int]) -> None:
    layer = attention(window)
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(2, 12, *size, generator=generator, dtype=torch.float64)
    with torch.inference_mode():
        actual = LocalWindowAttention(layer)(x)
    for image, result in zip(x, actual, strict=True):
        expected = in_windows(layer, image.permute(1, 2, 0).numpy())
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(
            result.permute(1, 2, 0).numpy(), expected, rtol=1e-10, atol=1e-12
        )


def test_each_head_hears_the_heads_before_it() -> None:
    """What goes in at one head's channels comes out of that head and the later ones."""
    layer = attention(4)
    # Behind it, channels would mix again.
    layer.proj = nn.Identity()  # type: ignore[assignment]
    x = torch.randn(1, 12, 4, 4, generator=torch.Generator().manual_seed(7)).double()
    with torch.inference_mode():
        whole = layer(x).unflatten(1, (3, 4))
        for head in range(3):
            changed = x.clone()
            changed[:, 4 * head : 4 * head + 4] += 1
            moved = (layer(changed).unflatten(1, (3, 4)) - whole).abs().amax(dim=(0, 2, 3, 4))
            assert moved[:head].eq(0).all() and moved[head:].gt(1e-3).all()


def test_only_queries_pass_the_depthwise_convolution() -> None:
    layer = attention(4, heads=1)
    layer.proj = nn.Identity()  # type: ignore[assignment]
    with torch.no_grad():
        layer.dws[0].bn.weight.zero_()  # all queries are alike, whatever the position
        layer.attention_biases.zero_()
    x = torch.randn(1, 12, 4, 4, generator=torch.Generator().manual_seed(8)).double()
    with torch.inference_mode():
        y = layer(x)
        _, keys, values = layer.qkvs[0](x).flatten(2).split([5, 5, 12], dim=1)
        weights = (layer.dws[0].bn.bias @ keys * 5**-0.5).softmax(-1)
        expected = (values @ weights[..., None])[..., None].expand(y.shape)
    torch.testing.assert_close(y, expected)


def test_heads_must_divide_the_channels() -> None:
    with pytest.raises(ValueError, match="3 heads cannot share 16 channels"):
        attention(4, heads=3, channels=16)
    with pytest.raises(ValueError, match="2 heads cannot share"):
        CascadedGroupAttention(8, heads=2, key_dim=4, window=4, kernels=(3,))


# The network


@pytest.fixture(scope="module")
def small() -> EfficientVit:
    network = EfficientVit(SMALL, num_classes=7)
    randomize(network, 0)
    return network.double()


def plain_squeeze_excite(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    pooled = x.mean((2, 3))
    hidden = pooled @ state[f"{name}.fc1.weight"][..., 0, 0].T + state[f"{name}.fc1.bias"]
    gate = hidden.clamp(min=0) @ state[f"{name}.fc2.weight"][..., 0, 0].T
    gate = 1 / (1 + torch.exp(-gate - state[f"{name}.fc2.bias"]))
    return x * gate[..., None, None]


def run_plainly(network: EfficientVit, x: Tensor) -> Tensor:
    """The network from its tensors; attention by the loops above."""
    state = dict(network.state_dict())

    def unit(x: Tensor, name: str, stride: int = 1, clip: bool = False) -> Tensor:
        weight = state[f"{name}.conv.weight"]
        groups = x.shape[1] // weight.shape[1]
        side = weight.shape[-1]
        x = nn.functional.conv2d(x, weight, None, stride, side // 2, groups=groups)
        mean, var, gamma, beta = (
            state[f"{name}.bn.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        x = (x - mean) / (var + 1e-5).sqrt() * gamma + beta
        return x.clamp(min=0) if clip else x

    def sandwich(x: Tensor, first: str, second: str) -> Tensor:
        x = x + unit(x, f"{first}.m")
        return x + unit(unit(x, f"{second}.m.pw1", clip=True), f"{second}.m.pw2")

    for index in range(1, 5):
        x = unit(x, f"patch_embed.conv{index}", 2, clip=index < 4)
    for stage, depth in enumerate(network.variant.depths):
        down = f"stages.{stage}.downsample"
        if stage:
            x = sandwich(x, f"{down}.res1.0", f"{down}.res1.1")
            x = unit(x, f"{down}.patchmerge.conv1", clip=True)
            x = unit(x, f"{down}.patchmerge.conv2", 2, clip=True)
            x = plain_squeeze_excite(x, state, f"{down}.patchmerge.se")
            x = unit(x, f"{down}.patchmerge.conv3")
            x = sandwich(x, f"{down}.res2.0", f"{down}.res2.1")
        for index in range(depth):
            block = f"stages.{stage}.blocks.{index}"
            x = sandwich(x, f"{block}.dw0", f"{block}.ffn0")
            layer = network.get_submodule(f"{block}.mixer.m.attn")
            found = [in_windows(layer, image.permute(1, 2, 0).numpy()) for image in x]
            x = x + torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2)
            x = sandwich(x, f"{block}.dw1", f"{block}.ffn1")
    pooled = x.mean((2, 3))
    mean, var, gamma, beta = (
        state[f"head.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
    )
    pooled = (pooled - mean) / (var + 1e-5).sqrt() * gamma + beta
    logits: Tensor = pooled @ state["head.linear.weight"].T + state["head.linear.bias"]
    return logits


@pytest.mark.parametrize("size", SIZES)
def test_equals_a_plain_implementation(small: EfficientVit, size: tuple[int, int]) -> None:
    image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(3)).double()
    with torch.inference_mode():
        expected = run_plainly(small, image)
        error = (small(image) - expected).norm() / expected.norm()
    assert expected.std() > 0.1
    assert error < 1e-10


@pytest.mark.parametrize(
    ("name", "size"),
    [*((n, (97, 40)) for n in NETWORKS), ("m5", (32, 32)), ("m5", (33, 65)), ("m5", (480, 223))],
)
def test_feature_maps(name: str, size: tuple[int, int]) -> None:
    with torch.device("meta"):
        model = zoo.build(f"efficientvit-{name}", features_only=True)
        maps = model(torch.empty(2, 3, *size))
    channels = NETWORKS[name][0]
    assert model.feature_channels == channels
    assert [tuple(m.shape) for m in maps] == [
        (2, c, *(-(-side // stride) for side in size))
        for c, stride in zip(channels, (16, 32, 64), strict=True)
    ]
    assert not [key for key in model.state_dict() if key.startswith("head.")]


def test_features_are_those_that_the_classifier_sees(small: EfficientVit) -> None:
    features = EfficientVit(SMALL, features_only=True).double().eval()
    features.load_state_dict(
        {key: value for key, value in small.state_dict().items() if key in features.state_dict()}
    )
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(5)).double()
    with torch.inference_mode():
        torch.testing.assert_close(small.head(features(image)[-1].mean((2, 3))), small(image))


def test_the_catalogue_has_the_published_figures() -> None:
    published = {"m0": 63.296, "m1": 68.356, "m2": 70.786, "m3": 73.39, "m4": 74.266, "m5": 77.124}
    for name, top1_percent in published.items():
        entry = zoo.entry(f"efficientvit-{name}")
        assert entry.published_top1_percent == top1_percent
        assert (entry.native_size, entry.stride, entry.min_size) == (224, 64, 32)
        assert entry.preprocessing.crop_pct == 0.875
        assert entry.timm_name == f"efficientvit_{name}"
