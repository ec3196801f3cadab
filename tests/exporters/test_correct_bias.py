"""Bias correction against means computed by hand."""

import copy

import pytest
import torch
from torch import nn

from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.exporters.recovery.correct_bias import correct_bias
from mnv4_deploy.exporters.recovery.grid import rounded_weight
from mnv4_deploy.exporters.recovery.network import folded


def images(count, seed=0):
    # A mean far from 0, so that a weight's rounding error shifts the output.
    return 2 + torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("weights", ["pairs", "full"])
def test_one_layer_by_hand(weights):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 1, bias=False)
    module = nn.Sequential(conv, nn.ReLU())
    weight = conv.weight.detach().clone()
    x = images(8)
    report = correct_bias(module, [x[:5], x[5:]], weights=weights)
    peaks = weight.abs().amax(dim=(1, 2, 3), keepdim=True)
    if weights == "pairs":  # of a 1x1 convolution with 3 inputs there is one
        peaks = torch.maximum(peaks, (weight[:, :1] + weight[:, 1:2]).abs())
        assert (peaks > weight.abs().amax(dim=(1, 2, 3), keepdim=True)).any()
    scale = peaks / 127
    int8_weight = torch.round(weight / scale) * scale
    error = nn.functional.conv2d(x, int8_weight - weight).mean(dim=(0, 2, 3))
    torch.testing.assert_close(conv.bias.detach(), -error, rtol=1e-3, atol=1e-6)
    assert torch.equal(conv.weight, weight)
    assert [path for path, _ in report.corrected] == ["0"]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.act = nn.ReLU6()
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.project = nn.Conv2d(8, 8, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.act(self.bn(self.stem(x)))
        return self.fc(self.pool(x + self.project(self.depthwise(x))).flatten(1))


def weights_rounded(module, weights):
    copied = copy.deepcopy(module)
    for layer in copied.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.weight = nn.Parameter(rounded_weight(layer, weights))
    return copied


def test_the_mean_of_the_output_comes_back_layer_after_layer():
    torch.manual_seed(0)
    net = Net().eval()
    x = images(32)
    corrected = copy.deepcopy(net)
    report = correct_bias(corrected, [x[:16], x[16:]], weights="pairs")
    paths = [path for path, _ in report.corrected]
    assert paths == ["stem", "depthwise", "project", "fc"]
    with torch.no_grad():
        expected = net(x).mean(dim=0)
        uncorrected = copy.deepcopy(net)
        folded(uncorrected, x[:1])
        before = (weights_rounded(uncorrected, "pairs")(x).mean(dim=0) - expected).abs().max()
        after = (weights_rounded(corrected, "pairs")(x).mean(dim=0) - expected).abs().max()
    assert after < 1e-3 * before


def test_the_same_twice():
    torch.manual_seed(0)
    net = Net().eval()
    both = [copy.deepcopy(net), copy.deepcopy(net)]
    for module in both:
        correct_bias(module, [images(8)], weights="full")
    for a, b in zip(both[0].parameters(), both[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_attention_with_its_border_maps(hybrid_reference):
    module = copy.deepcopy(hybrid_reference.module)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    report = correct_bias(module, [x], weights="full")
    paths = [path for path, _ in report.corrected]
    assert "blocks.2.4.attn.query.proj" in paths
    assert any("attn.key" in path for path in paths)
    assert torch.isfinite(module(x)).all()


def test_no_images():
    with pytest.raises(UnsupportedError, match="there were none"):
        correct_bias(Net(), [], weights="full")
