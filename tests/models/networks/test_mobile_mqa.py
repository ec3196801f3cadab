"""Mobile MQA against TensorFlow's definition, written with numpy in NHWC."""

import math
import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mnv4_deploy.models.macs import count_parameters
from mnv4_deploy.models.networks.mobile_mqa import MobileMqaBlock, MultiQueryAttention
from tests.mqa_cases import CASES, CHANNELS, Case, attention, image, settle


class Definition:
    """The layer as TensorFlow writes it, for maps ``[B, H, W, C]``, with the weights of ours."""

    def __init__(self, layer: MultiQueryAttention, case: Case) -> None:
        self.state = {key: value.numpy() for key, value in layer.state_dict().items()}
        self.case = case
        query = case.query_stride
        self.query_stride = query if isinstance(query, tuple) else (query, query)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        q = self.project("query", self.norm("query", self.pool(x)))
        k = self.project("key", self.norm("key", self.down_conv("key", x)))
        v = self.project("value", self.norm("value", self.down_conv("value", x)))
        batch, height, width, _ = q.shape
        q = q.reshape(batch, height * width, self.case.heads, self.case.key_dim)
        k, v = (t.reshape(batch, -1, t.shape[3]) for t in (k, v))
        logits = np.einsum("blhk,bpk->blhp", q, k) / math.sqrt(self.case.key_dim)
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed = np.einsum("blhp,bpv->blhv", weights, v).reshape(batch, height, width, -1)
        return self.project("output", upsampled(mixed, x.shape[1:3]))

    def project(self, part: str, x: np.ndarray) -> np.ndarray:
        return np.asarray(x @ self.state[f"{part}.proj.weight"][:, :, 0, 0].T)

    def norm(self, part: str, x: np.ndarray) -> np.ndarray:
        if f"{part}.norm.weight" not in self.state:
            return x
        gamma, beta, mean, variance = (
            self.state[f"{part}.norm.{name}"]
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        return np.asarray((x - mean) / np.sqrt(variance + 1e-5) * gamma + beta)

    def pool(self, x: np.ndarray) -> np.ndarray:
        """AvgPool2D of padding "same": the mean of those pixels of a window that exist."""
        batch, height, width, channels = x.shape
        rows, columns = map(same_windows, (height, width), self.query_stride)
        pooled = np.empty((batch, len(rows), len(columns), channels))
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                pooled[:, i, j] = x[:, row][:, :, column].mean(axis=(1, 2))
        return pooled

    def down_conv(self, part: str, x: np.ndarray) -> np.ndarray:
        """3x3 depthwise, one zero around the map."""
        stride = self.case.kv_stride
        if stride == 1:
            return x
        kernel = self.state[f"{part}.down_conv.weight"][:, 0]  # [C, 3, 3]
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        height, width = (math.ceil(side / stride) for side in x.shape[1:3])
        result = np.empty((x.shape[0], height, width, x.shape[3]))
        for i in range(height):
            for j in range(width):
                top, left = i * stride, j * stride
                window = padded[:, top : top + 3, left : left + 3]
                result[:, i, j] = np.einsum("bijc,cij->bc", window, kernel)
        return result


def same_windows(side: int, stride: int) -> list[list[int]]:
    """Which pixels each window covers; TensorFlow pads the smaller half in front."""
    count = math.ceil(side / stride)
    before = (count * stride - side) // 2
    starts = [index * stride - before for index in range(count)]
    return [[p for p in range(s, s + stride) if 0 <= p < side] for s in starts]


def upsampled(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear with half-pixel centres, one axis after the other."""
    for axis, side in ((1, size[0]), (2, size[1])):
        known = x.shape[axis]
        places = np.clip((np.arange(side) + 0.5) * known / side - 0.5, 0, known - 1)
        low = np.floor(places).astype(int)
        high = np.minimum(low + 1, known - 1)
        share = (places - low).reshape((-1, 1, 1) if axis == 1 else (-1, 1))
        x = np.take(x, low, axis) * (1 - share) + np.take(x, high, axis) * share
    return x


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_layer_is_tensorflows_definition(case: Case) -> None:
    layer, x = attention(case), image(case.size)
    with torch.no_grad():
        actual = layer(x)
    expected = Definition(layer, case)(x.permute(0, 2, 3, 1).numpy())
    assert actual.shape == x.shape
    assert expected.std() > 0.05
    np.testing.assert_allclose(
        actual.permute(0, 2, 3, 1).numpy(), expected, rtol=1e-10, atol=1e-12
    )


def test_pooling_pads_the_smaller_half_in_front() -> None:
    layer = MultiQueryAttention(1, heads=1, key_dim=1, query_stride=(1, 3))
    row = torch.arange(7.0).view(1, 1, 1, 7)
    pooled = layer.get_submodule("query.down_pool")(row)
    # Two cells are missing, so there is one at each end: 0 1 | 2 3 4 | 5 6.
    assert pooled.flatten().tolist() == [0.5, 3.0, 5.5]


# Published layers: channels, heads, key width, K/V stride; parameters of block and attention.
BLOCKS = {
    "hybrid-m-stride-16": (160, 4, 64, 2, 106_400, 105_920),
    "hybrid-m-stride-32": (256, 4, 64, 1, 164_608, 163_840),
    "hybrid-l-stride-16": (192, 8, 48, 2, 170_688, 170_112),
    "hybrid-l-stride-32": (512, 8, 64, 1, 591_360, 589_824),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_parameters_of_the_published_blocks(name: str) -> None:
    channels, heads, key_dim, kv_stride, whole, of_attention = BLOCKS[name]
    block = MobileMqaBlock(
        channels, heads=heads, key_dim=key_dim, kv_stride=kv_stride, layer_scale_init=1e-5
    )
    assert count_parameters(block) == whole
    assert count_parameters(block.attn) == of_attention
    # A query stride adds a norm of the input channels.
    strided = MultiQueryAttention(
        channels, heads=heads, key_dim=key_dim, kv_stride=kv_stride, query_stride=2
    )
    assert count_parameters(strided) == of_attention + 2 * channels


@pytest.mark.parametrize("channels", [64, 128, 256])
def test_parameters_of_the_detector_layer(channels: int) -> None:
    """YOLOv9 with Mobile MQA: 864 c4, whatever the size of the map."""
    layer = MultiQueryAttention(channels, heads=8, key_dim=48, value_dim=48)
    assert count_parameters(layer) == 864 * channels


def test_tensor_names_are_timms() -> None:
    layer = MultiQueryAttention(CHANNELS, heads=2, key_dim=4, kv_stride=2, query_stride=2)
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert list(layer.state_dict()) == [
        *(f"query.norm.{name}" for name in norm),
        "query.proj.weight",
        *(
            f"{part}.{name}"
            for part in ("key", "value")
            for name in ("down_conv.weight", *(f"norm.{n}" for n in norm), "proj.weight")
        ),
        "output.proj.weight",
    ]


class ViewsNchwAsHeads(MultiQueryAttention):
    """With the error of the copied layer: NCHW memory viewed as ``[heads, N, key_dim]``."""

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        q = self.query(x).view(batch, self.heads, -1, self.key_dim)
        k = self.key(x).view(batch, 1, self.key_dim, -1)
        v = self.value(x).view(batch, 1, -1, self.value_dim)
        mixed = (q @ k * self.key_dim**-0.5).softmax(dim=-1) @ v
        y: Tensor = self.output(mixed.reshape(batch, -1, height, width))
        return y


def permutation_error(kind: type[MultiQueryAttention], seed: int) -> float:
    """How far a layer without strides is from commuting with a permutation of the pixels.

    Relative to its largest output; shapes, weights and permutation follow from ``seed``.
    """
    pick = random.Random(seed)
    height, width = pick.randint(2, 7), pick.randint(2, 7)
    layer = kind(
        CHANNELS,
        heads=pick.randint(1, 5),
        key_dim=pick.randint(2, 9),
        value_dim=pick.randint(2, 9),
    ).double()
    settle(layer, seed)
    x = image((height, width), batch=pick.randint(1, 3))
    order = pick.sample(range(height * width), height * width)
    with torch.no_grad():
        before = layer(x.flatten(2)[..., order].view(x.shape))
        after = layer(x).flatten(2)[..., order].view(x.shape)
    return float((before - after).abs().max() / after.abs().max())


@pytest.mark.parametrize("seed", range(20))
def test_pixels_can_be_permuted_before_or_after(seed: int) -> None:
    assert permutation_error(MultiQueryAttention, seed) < 1e-12
    # The same property catches a layer that takes neighbouring pixels for channels.
    assert permutation_error(ViewsNchwAsHeads, seed) > 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "channels is 0"),
        ({"heads": 0}, "heads is 0"),
        ({"heads": -2}, "heads is -2"),
        ({"key_dim": 4.5}, "key_dim is 4.5"),
        ({"value_dim": 0}, "value_dim is 0"),
        ({"kv_stride": 0}, "kv_stride is 0"),
        ({"query_stride": 0}, "the vertical query_stride is 0"),
        ({"query_stride": (2, -1)}, "the horizontal query_stride is -1"),
        ({"query_stride": (1, 2, 3)}, "vertical, horizontal"),
        ({"query_stride": "2"}, "query_stride is '2'"),
    ],
)
@pytest.mark.parametrize("kind", [MultiQueryAttention, MobileMqaBlock])
def test_bad_arguments(kind: type[nn.Module], options: dict[str, object], message: str) -> None:
    given = {"channels": CHANNELS, "heads": 2, "key_dim": 4} | options
    if kind is MobileMqaBlock:
        given["layer_scale_init"] = None
    with pytest.raises(ValueError, match="A Mobile MQA needs") as error:
        kind(**given)
    assert message in str(error.value)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)
