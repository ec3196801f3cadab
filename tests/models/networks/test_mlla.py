"""MLLA against published counts and a second implementation."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, gelu, layer_norm, silu

from mnv4_deploy.models import zoo
from mnv4_deploy.models.layer_costs import layer_costs
from mnv4_deploy.models.macs import count_macs, count_parameters
from mnv4_deploy.models.networks.mlla import LinearAttention, Mlla, RotaryEmbedding
from mnv4_deploy.models.networks.mlla_variants import Variant
from mnv4_deploy.models.randomize import randomize

# Width, depths; parameters (the authors' code), 1e9 MACs of layers and of products, billions of
# multiply-adds as the authors' README rounds them.
NETWORKS = {
    "mlla-t": (64, (2, 4, 8, 4), 24_392_200, 4.0466, 0.0848, 4.2),
    "mlla-s": (64, (3, 6, 21, 6), 43_015_048, 7.0921, 0.1565, 7.3),
    "mlla-b": (96, (3, 6, 21, 6), 95_983_960, 15.8789, 0.2348, 16.2),
}
HEAD_WIDTH = 32
# Four stages, as narrow as whole heads allow.
SMALL = Variant("small", "", 64, 32, (1, 2, 1, 1), (1, 2, 4, 8))


def counted_by_hand(width: int, depths: tuple[int, ...], side: int) -> tuple[int, int, int]:
    """Parameters, MACs of layers and MACs of products, in closed form."""
    half, wide = width // 2, 4 * width
    parameters = 9 * (3 + 2 * half) * half + 9 * half * wide + wide * width
    parameters += 2 * (3 * half + wide + width)  # batch norms
    at_2, at_4 = math.ceil(side / 2) ** 2, math.ceil(math.ceil(side / 2) / 2) ** 2
    layers = 9 * (3 + 2 * half) * half * at_2 + (9 * half * wide + wide * width) * at_4
    products = 0
    side, c = math.isqrt(at_4), width
    for stage, depth in enumerate(depths):
        tokens = side**2
        # Four depthwise convolutions; in, gate, q, k, out, and an MLP of ratio 4; two norms.
        parameters += depth * (4 * (9 + 1) * c + 5 * (c + 1) * c + (8 * c + 5) * c + 2 * 2 * c)
        layers += depth * tokens * (4 * 9 * c + (5 + 8) * c * c)
        # The normaliser, keys by values and queries by those.
        products += depth * tokens * c * (1 + 2 * HEAD_WIDTH)
        if stage < len(depths) - 1:
            parameters += (c + 1) * 8 * c + 10 * 8 * c + (8 * c + 1) * 2 * c + 2 * 2 * c
            layers += tokens * c * 8 * c
            side = math.ceil(side / 2)
            layers += side**2 * (9 * 8 * c + 8 * c * 2 * c)
            c *= 2
    return parameters + 2 * c + (c + 1) * 1000, layers + c * 1000, products


@pytest.mark.parametrize("name", NETWORKS)
def test_counts_to_the_unit(name: str) -> None:
    width, depths, published, giga_layers, giga_products, readme = NETWORKS[name]
    parameters, layers, products = counted_by_hand(width, depths, 224)
    with torch.device("meta"):
        model = zoo.build(name)
    assert count_parameters(model) == parameters == published
    if name == "mlla-t":  # the others have more of the same, and take seconds
        assert count_macs(model, (224, 224)) == layers + products
    costs = layer_costs(model, (224, 224))
    assert sum(cost.macs for cost in costs if cost.attention) == products
    assert sum(cost.macs for cost in costs if not cost.attention) == layers
    assert (round(layers / 1e9, 4), round(products / 1e9, 4)) == (giga_layers, giga_products)
    assert (layers + products) / 1e9 == pytest.approx(readme, rel=0.02)  # theirs has norms


def test_tensor_names_are_the_authors() -> None:
    with torch.device("meta"):
        names = set(zoo.build("mlla-t").state_dict())
    block = "layers.2.blocks.7"
    linears = ("in_proj", "act_proj", "attn.qk", "out_proj", "mlp.fc1", "mlp.fc2")
    convs = ("cpe1", "dwc", "attn.lepe", "cpe2")
    layers = {f"{block}.{layer}" for layer in (*linears, *convs, "norm1", "norm2")}
    layers |= {f"layers.1.downsample.conv.{i}.conv" for i in range(3)}
    layers |= {"layers.0.downsample.conv.2.norm", "norm", "head"}
    expected = {f"{layer}.{value}" for layer in layers for value in ("weight", "bias")}
    stem = ("conv1", "conv2.0", "conv2.1", "conv3.0", "conv3.1")
    expected |= {f"patch_embed.{layer}.conv.weight" for layer in stem}
    expected |= {f"patch_embed.{layer}.norm.running_var" for layer in stem}
    assert expected <= names
    assert {name for name in names if name.startswith(f"{block}.")} <= expected
    assert not [name for name in names if "patch_embed" in name and name.endswith("conv.bias")]


@pytest.fixture(scope="module")
def network() -> Mlla:
    """The small one in float64."""
    network = Mlla(SMALL, num_classes=7)
    randomize(network, 0, size=(64, 64))
    return network.double()


def turn(x_BHWC: Tensor) -> Tensor:
    """Rotary embedding with complex numbers, one frequency at a time."""
    _, height, width, channels = x_BHWC.shape
    z = torch.view_as_complex(x_BHWC.unflatten(-1, (-1, 2)).contiguous())
    for k in range(channels // 4):
        theta = 10000 ** (-k / (channels // 4))
        for row in range(height):
            z[:, row, :, k] *= complex(math.cos(row * theta), math.sin(row * theta))
        for column in range(width):
            angle = column * theta
            z[:, :, column, channels // 4 + k] *= complex(math.cos(angle), math.sin(angle))
    return torch.view_as_real(z).flatten(-2)


def attend(state: dict[str, Tensor], heads: int, x_BCHW: Tensor) -> Tensor:
    """The attention as weights between all pairs of tokens."""
    x = x_BCHW.permute(0, 2, 3, 1)
    batch, height, width, channels = x.shape
    qk = x @ state["qk.weight"].T + state["qk.bias"]
    # ELU + 1 is exp below zero and x + 1 above.
    q, k = torch.where(qk > 0, qk + 1, qk.exp()).split(channels, dim=-1)

    def rows(t: Tensor) -> Tensor:
        return t.reshape(batch, height * width, heads, -1)

    turned_Bhnm = torch.einsum("bnhd,bmhd->bhnm", rows(turn(q)), rows(turn(k)))
    sums_Bhn = torch.einsum("bnhd,bmhd->bhn", rows(q), rows(k))
    # Both divide by the number of tokens; the normaliser then adds its epsilon.
    tokens = height * width
    weights = turned_Bhnm / tokens / (sums_Bhn / tokens + 1e-6)[..., None]
    y = torch.einsum("bhnm,bmhd->bnhd", weights, rows(x)).reshape(x.shape).permute(0, 3, 1, 2)
    return y + depthwise(x_BCHW, state, "lepe")


def depthwise(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    return conv2d(x, weight, bias, padding=1, groups=x.shape[1])


def run_plainly(network: Mlla, x: Tensor) -> Tensor:
    """The network on NCHW maps, linear layers as 1x1 convolutions."""
    state = dict(network.state_dict())

    def pointwise(x: Tensor, name: str) -> Tensor:
        return conv2d(x, state[f"{name}.weight"][..., None, None], state[f"{name}.bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        rows = x.permute(0, 2, 3, 1)
        gamma, beta = state[f"{name}.weight"], state[f"{name}.bias"]
        return layer_norm(rows, gamma.shape, gamma, beta).permute(0, 3, 1, 2)

    def conv(x: Tensor, name: str, stride: int, clip: bool) -> Tensor:
        weight, bias = state[f"{name}.conv.weight"], state.get(f"{name}.conv.bias")
        groups = x.shape[1] // weight.shape[1]
        x = conv2d(x, weight, bias, stride, padding=weight.shape[-1] // 2, groups=groups)
        if f"{name}.norm.weight" in state:
            gamma, beta, mean, var = (
                state[f"{name}.norm.{part}"][:, None, None]
                for part in ("weight", "bias", "running_mean", "running_var")
            )
            x = (x - mean) / (var + 1e-5).sqrt() * gamma + beta
        return x.clamp(min=0) if clip else x

    x = conv(x, "patch_embed.conv1", 2, clip=True)
    y = conv(x, "patch_embed.conv2.0", 1, clip=True)
    x = x + conv(y, "patch_embed.conv2.1", 1, clip=False)
    x = conv(x, "patch_embed.conv3.0", 2, clip=True)
    x = conv(x, "patch_embed.conv3.1", 1, clip=False)
    depths, heads = network.variant.depths, network.variant.heads
    for stage in range(4):
        for index in range(depths[stage]):
            block = f"layers.{stage}.blocks.{index}"
            x = x + depthwise(x, state, f"{block}.cpe1")
            normed = norm(x, f"{block}.norm1")
            y = silu(depthwise(pointwise(normed, f"{block}.in_proj"), state, f"{block}.dwc"))
            prefix = f"{block}.attn."
            own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            y = attend(own, heads[stage], y) * silu(pointwise(normed, f"{block}.act_proj"))
            x = x + pointwise(y, f"{block}.out_proj")
            x = x + depthwise(x, state, f"{block}.cpe2")
            y = gelu(pointwise(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
            x = x + pointwise(y, f"{block}.mlp.fc2")
        if stage < 3:
            down = f"layers.{stage}.downsample.conv"
            x = conv(conv(x, f"{down}.0", 1, clip=True), f"{down}.1", 2, clip=True)
            x = conv(x, f"{down}.2", 1, clip=False)
    pooled = norm(x, "norm").mean((2, 3))
    logits: Tensor = pooled @ state["head.weight"].T + state["head.bias"]
    return logits


@pytest.mark.parametrize("size", [(64, 64), (75, 50), (33, 97), (32, 32)])
def test_equals_a_plain_implementation(network: Mlla, size: tuple[int, int]) -> None:
    image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(3)).double()
    with torch.inference_mode():
        expected = run_plainly(network, image)
        error = (network(image) - expected).norm() / expected.norm()
    assert error < 1e-10


@pytest.mark.parametrize("size", [(5, 8), (1, 3), (7, 7)])
def test_linear_attention_is_attention_of_all_pairs(size: tuple[int, int]) -> None:
    attention = LinearAttention(64, heads=2)
    randomize_attention(attention)
    x = torch.randn(2, 64, *size, generator=torch.Generator().manual_seed(1)).double()
    with torch.inference_mode():
        result = attention(x.flatten(2).transpose(1, 2), size)
        expected = attend(dict(attention.state_dict()), 2, x).flatten(2).transpose(1, 2)
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-10)


def randomize_attention(attention: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in attention.double().parameters():
        parameter.data.normal_(0, 0.3, generator=generator)


def test_rotation_tells_relative_positions_alone() -> None:
    # The product of two transposed vectors depends on how far apart they are, not on where.
    q, k = torch.randn(2, 32, generator=torch.Generator().manual_seed(2)).double()
    turned_q, turned_k = (RotaryEmbedding()(t.expand(1, 6, 9, 32))[0] for t in (q, k))
    for down, right in ((0, 0), (2, 1), (3, 5), (-1, 4)):
        products = torch.stack(
            [
                turned_q[row, column] @ turned_k[row + down, column + right]
                for row in range(1, 3)
                for column in range(4)
            ]
        )
        torch.testing.assert_close(products, products[:1].expand_as(products))
    assert not torch.isclose(turned_q[0, 0] @ turned_k[2, 1], turned_q[0, 0] @ turned_k[1, 2])
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm().expand(6, 9))


def test_normalised_weights_sum_to_one_where_nothing_is_turned() -> None:
    # At one token there is nothing to turn: the attention passes the value on.
    attention = LinearAttention(32, heads=1)
    randomize_attention(attention)
    attention.lepe.weight.data.zero_()
    attention.lepe.bias.data.zero_()
    x = torch.randn(3, 1, 32, generator=torch.Generator().manual_seed(4)).double()
    torch.testing.assert_close(attention(x, (1, 1)), x, rtol=1e-5, atol=0)


@pytest.mark.parametrize("size", [(64, 96), (33, 65), (97, 40)])
def test_feature_maps(size: tuple[int, int]) -> None:
    with torch.device("meta"):
        model = Mlla(SMALL, features_only=True).eval()
    maps = model(torch.empty(2, 3, *size, device="meta"))
    assert [tuple(m.shape) for m in maps] == [
        (2, channels, *(-(-side // stride) for side in size))
        for channels, stride in zip((32, 64, 128, 256), (4, 8, 16, 32), strict=True)
    ]


def test_feature_channels() -> None:
    with torch.device("meta"):
        model = zoo.build("mlla-b", features_only=True)
        maps = model(torch.empty(2, 3, 33, 65))
    assert model.feature_channels == tuple(m.shape[1] for m in maps) == (96, 192, 384, 768)
    assert not [key for key in model.state_dict() if key.startswith(("norm.", "head."))]


def test_features_are_those_that_the_classifier_sees(network: Mlla) -> None:
    features = Mlla(network.variant, features_only=True).double().eval()
    features.load_state_dict(network.state_dict(), strict=False)
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(5)).double()
    with torch.inference_mode():
        last = features(image)[-1].flatten(2).transpose(1, 2)
        torch.testing.assert_close(network.head(network.norm(last).mean(1)), network(image))


def test_preprocessing_is_the_authors() -> None:
    preprocessing = zoo.entry("mlla-s").preprocessing
    assert (preprocessing.height, preprocessing.crop_pct) == (224, 224 / 256)
    assert preprocessing.interpolation == "bicubic"
