"""MobileNetV2 and EfficientNet-Lite against published counts and a second implementation."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from mnv4_deploy.models import zoo
from mnv4_deploy.models.layer_costs import layer_costs
from mnv4_deploy.models.macs import count_macs, count_parameters
from mnv4_deploy.models.networks.inverted_residual import SamePad

# Kernel, stride, expansion, channels, repeats: the tables of arXiv 1801.04381 and 1905.11946.
MOBILENETV2 = "311-16-1 326-24-2 326-32-3 326-64-4 316-96-3 326-160-3 316-320-1"
EFFICIENTNET = "311-16-1 326-24-2 526-40-2 326-80-3 516-112-3 526-192-4 316-320-1"
# Blocks, width, depth, side, parameters (timm's own implementation, 1.0.31).
NETWORKS = {
    "mobilenetv2-100": (MOBILENETV2, 1.0, 1.0, 224, 3_504_872),
    "efficientnet-lite0": (EFFICIENTNET, 1.0, 1.0, 224, 4_652_008),
    "efficientnet-lite1": (EFFICIENTNET, 1.0, 1.1, 240, 5_416_680),
    "efficientnet-lite2": (EFFICIENTNET, 1.1, 1.2, 260, 6_092_072),
    "efficientnet-lite3": (EFFICIENTNET, 1.2, 1.4, 280, 8_197_096),
    "efficientnet-lite4": (EFFICIENTNET, 1.4, 1.8, 300, 13_006_568),
}
# tensorflow/tpu's README: millions of parameters; millions of multiply-adds, norms included.
PUBLISHED_LITE = ((4.7, 407), (5.4, 631), (6.1, 899), (8.2, 1440), (13.0, 2640))
FEATURES = {"mobilenetv2-100": (24, 32, 96, 320), "efficientnet-lite0": (24, 40, 112, 320)}


def rounded(channels: float) -> int:
    """To the nearest multiple of 8, ties up, but at most 10 % down."""
    nearest = 8 * math.floor(channels / 8 + 0.5)
    return nearest if nearest >= 0.9 * channels else nearest + 8


def blocks_of(name: str) -> list[tuple[int, int, int, int, int]]:
    """Kernel, stride, expansion, input and output channels of every block."""
    table, width, depth, _, _ = NETWORKS[name]
    rows = table.split()
    found, channels = [], 32
    for row_number, row in enumerate(rows):
        geometry, out, repeats = row.split("-")
        kernel, stride, expansion = map(int, geometry)
        at_end = row_number in (0, len(rows) - 1)
        for repeat in range(int(repeats) if at_end else math.ceil(int(repeats) * depth)):
            found.append(
                (kernel, 1 if repeat else stride, expansion, channels, rounded(int(out) * width))
            )
            channels = found[-1][-1]
    return found


def counted_by_hand(name: str) -> tuple[int, int]:
    """Parameters and MACs from the table alone; a norm has two parameters a channel."""
    side = math.ceil(NETWORKS[name][3] / 2)
    parameters, macs = 27 * 32 + 64, 27 * 32 * side**2
    for kernel, stride, expansion, inputs, outputs in blocks_of(name):
        wide = inputs * expansion
        if expansion > 1:
            parameters += inputs * wide + 2 * wide
            macs += inputs * wide * side**2
        side = math.ceil(side / stride)
        parameters += kernel**2 * wide + 2 * wide + wide * outputs + 2 * outputs
        macs += (kernel**2 * wide + wide * outputs) * side**2
    last = blocks_of(name)[-1][-1]
    parameters += last * 1280 + 2 * 1280 + 1280 * 1000 + 1000
    macs += last * 1280 * side**2 + 1280 * 1000
    return parameters, macs


@pytest.mark.parametrize("name", NETWORKS)
def test_counts_to_the_unit(name: str) -> None:
    side, published = NETWORKS[name][3:]
    with torch.device("meta"):
        model = zoo.build(name)
    parameters, macs = counted_by_hand(name)
    assert zoo.entry(name).native_size == side
    assert count_parameters(model) == parameters == published
    assert sum(cost.macs for cost in layer_costs(model, (side, side))) == macs
    if name in FEATURES:  # the others have more of the same, and take seconds
        assert count_macs(model, (side, side)) == macs


def test_published_counts() -> None:
    assert counted_by_hand("mobilenetv2-100")[1] == 300_774_272
    for number, (millions, mega_macs) in enumerate(PUBLISHED_LITE):
        parameters, macs = counted_by_hand(f"efficientnet-lite{number}")
        assert round(parameters / 1e6, 1) == millions
        # Theirs have the norms, too, which are folded away before anything runs.
        assert 0.94 < macs / (mega_macs * 1e6) < 0.98


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("size", [(64, 96), (33, 65), (97, 40)])
def test_feature_maps(name: str, size: tuple[int, int]) -> None:
    with torch.device("meta"):
        model = zoo.build(name, features_only=True)
        maps = model(torch.empty(2, 3, *size))
    assert model.feature_channels == FEATURES[name]
    assert [tuple(m.shape) for m in maps] == [
        (2, channels, *(-(-side // stride) for side in size))
        for channels, stride in zip(FEATURES[name], (4, 8, 16, 32), strict=True)
    ]
    assert not [key for key in model.state_dict() if key.startswith(("conv_head", "classifier"))]


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("side", [5, 6, 7, 8])
def test_same_padding_samples_where_tensorflow_does(kernel: int, side: int) -> None:
    # One-hot kernels read single pixels: output o of tap t reads input 2 o + t - before, with
    # before = max((ceil(n / 2) - 1) * 2 + k - n, 0) // 2 (TensorFlow's guide to convolution).
    before = max((math.ceil(side / 2) - 1) * 2 + kernel - side, 0) // 2
    rows = torch.arange(1.0, side + 1)
    padded = SamePad(kernel)(rows.view(1, 1, side, 1).expand(1, 1, side, side))
    taps = conv2d(padded, torch.eye(kernel**2).view(-1, 1, kernel, kernel), stride=2)
    assert taps.shape[-2:] == (math.ceil(side / 2),) * 2
    for tap in range(kernel):
        for output in range(math.ceil(side / 2)):
            source = 2 * output + tap - before
            expected = source + 1 if 0 <= source < side else 0
            # Nothing of the second column's window is to the left or right of the image.
            assert taps[0, tap * kernel, output, 1] == expected


def run_plainly(name: str, state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The network in functional calls, block by block from the table."""
    eps, same = (1e-3, True) if "lite" in name else (1e-5, False)

    def conv_norm(x: Tensor, conv: str, norm: str, stride: int, clip: bool) -> Tensor:
        weight = state[f"{conv}.weight"]
        kernel, depthwise = weight.shape[-1], weight.shape[1] == 1 and x.shape[1] > 1
        for axis in (-1, -2):
            side = x.shape[axis]
            needed = (-(-side // stride) - 1) * stride + kernel - side
            total = needed if same else 2 * (kernel // 2)
            zeros = torch.zeros_like(x)
            before = zeros.narrow(axis, 0, total // 2)
            after = zeros.narrow(axis, 0, total - total // 2)
            x = torch.cat([before, x, after], axis)
        x = conv2d(x, weight, stride=stride, groups=x.shape[1] if depthwise else 1)
        mean, var, gamma, beta = (
            state[f"{norm}.{part}"].view(-1, 1, 1)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        x = (x - mean) / torch.sqrt(var + eps) * gamma + beta
        return x.clamp(0, 6) if clip else x

    x = conv_norm(x, "conv_stem", "bn1", 2, clip=True)
    stage, index, width = -1, 0, 0
    for _, stride, expansion, inputs, outputs in blocks_of(name):
        stage, index = (stage, index + 1) if outputs == width else (stage + 1, 0)
        width = outputs
        block = f"blocks.{stage}.{index}"
        y = x
        number = 1
        if expansion > 1:
            y = conv_norm(y, f"{block}.conv_pw", f"{block}.bn1", 1, clip=True)
            number = 2
        y = conv_norm(y, f"{block}.conv_dw", f"{block}.bn{number}", stride, clip=True)
        last = "conv_pwl" if expansion > 1 else "conv_pw"
        y = conv_norm(y, f"{block}.{last}", f"{block}.bn{number + 1}", 1, clip=False)
        x = x + y if stride == 1 and inputs == outputs else y
    x = conv_norm(x, "conv_head", "bn2", 1, clip=True).mean((2, 3))
    return x @ state["classifier.weight"].T + state["classifier.bias"]


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("size", [(64, 64), (75, 50)])
def test_equals_a_plain_implementation(
    name: str, size: tuple[int, int], random_module: Callable[[str], nn.Module]
) -> None:
    model = random_module(name)
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        expected = run_plainly(name, model.state_dict(), image)
        error = (model(image) - expected).norm() / expected.norm()
    assert error < 1e-5
