"""Cascaded group attention rewritten for TFLite: exact at every size, and what it is made of."""

import copy

import pytest
import torch
from torch import Tensor, nn

from mnv4_deploy.exporters.rewrites.base import RewriteReport
from mnv4_deploy.exporters.rewrites.cascaded_group_attention import WindowsNhwc, cga_for_tflite
from mnv4_deploy.exporters.rewrites.chains import rewrite
from mnv4_deploy.exporters.rewrites.fold_batch_norm import fold_batch_norm
from mnv4_deploy.models import zoo
from mnv4_deploy.models.networks.cascaded_group_attention import (
    CascadedGroupAttention,
    LocalWindowAttention,
)
from mnv4_deploy.models.networks.efficientvit import EfficientVit
from mnv4_deploy.models.networks.efficientvit_variants import Variant
from mnv4_deploy.models.randomize import randomize

# Heads and depthwise sides differ by stage; at 32 px the stages have 2x2 positions and one.
SMALL = Variant("small", "", (16, 24), (1, 2), (2, 3), (7, 5, 3), 0.0)  # type: ignore[arg-type]


class Net(nn.Module):
    """Two attentions of different windows and heads, with norms folded as the chain does."""

    def __init__(self, window: int) -> None:
        super().__init__()

        def attention(heads: int, key_dim: int, window: int) -> LocalWindowAttention:
            return LocalWindowAttention(
                CascadedGroupAttention(
                    12, heads=heads, key_dim=key_dim, window=window, kernels=(5, 3, 7, 1)[:heads]
                )
            )

        self.first = attention(3, 5, window)
        self.second = attention(4, 8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.first(x)
        y: Tensor = x + self.second(x)
        return y


def settled(net: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for key, tensor in net.double().eval().state_dict().items():
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=generator)
        elif tensor.is_floating_point():
            tensor.normal_(0, 0.5, generator=generator)
    return net


@pytest.mark.parametrize(
    ("window", "size"),
    [
        pytest.param(4, (12, 12), id="whole-windows"),
        pytest.param(4, (12, 8), id="not-square"),
        pytest.param(4, (9, 11), id="padded"),
        pytest.param(4, (13, 4), id="padded-below"),
        pytest.param(4, (2, 7), id="lower-than-a-window"),
        pytest.param(4, (4, 4), id="one-window"),
        pytest.param(4, (3, 2), id="smaller-than-a-window"),
        pytest.param(4, (1, 1), id="one-position"),
        pytest.param(7, (14, 14), id="as-published"),
        pytest.param(1, (3, 4), id="windows-of-one-position"),
    ],
)
def test_exact(window: int, size: tuple[int, int]) -> None:
    net = settled(Net(window))
    x = torch.randn(2, 12, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    changed = copy.deepcopy(net)
    with torch.no_grad():
        fold_batch_norm(changed, x[:1])
        report = cga_for_tflite(changed, x[:1])
        expected = net(x)
        error = (changed(x) - expected).abs().max() / (expected - x).abs().max()
    assert error < 1e-12
    assert report == RewriteReport(
        "cga_for_tflite",
        changed=("first", "second"),
        float_modules=("first.cascade", "second.cascade"),
    )
    assert isinstance(changed.first, WindowsNhwc) and isinstance(changed.second, WindowsNhwc)


def test_the_given_network_is_left_alone() -> None:
    """``rewrite`` works on a copy, in which tensors of the original may not change."""
    net = settled(EfficientVit(SMALL, num_classes=3))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    rewrite(net, "tflite", (64, 64))
    after = net.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_nothing_to_do_is_not_an_error() -> None:
    net = nn.Sequential(nn.Conv2d(3, 3, 1))
    assert cga_for_tflite(net, torch.zeros(1, 3, 4, 4)) == RewriteReport("cga_for_tflite")


def test_float_modules_are_those_of_the_rewritten_network() -> None:
    rewritten = rewrite(settled(EfficientVit(SMALL)), "tflite", (64, 64))
    assert rewritten.float_modules == (
        "stages.0.blocks.0.mixer.m.cascade",
        "stages.1.blocks.0.mixer.m.cascade",
        "stages.1.blocks.1.mixer.m.cascade",
    )
    for path in rewritten.float_modules:
        rewritten.module.get_submodule(path)
    assert rewrite(zoo.build("conv-s-035"), "tflite", (32, 32)).float_modules == ()


@pytest.mark.parametrize("format_", ["tflite", "onnx"])
@pytest.mark.parametrize("size", [(32, 32), (96, 161), (250, 130)])
def test_chain_is_exact(format_: str, size: tuple[int, int]) -> None:
    net = EfficientVit(SMALL, num_classes=5)
    randomize(net, 0)
    net.double()
    x = torch.randn(1, 3, *size, dtype=torch.float64)
    rewritten = rewrite(net, format_, size)
    with torch.no_grad():
        expected, actual = net(x), rewritten.module(x)
    assert expected.std() > 0.1
    assert (actual - expected).abs().max() <= 1e-9 * expected.abs().max()
    left = {type(layer) for layer in rewritten.module.modules()}
    assert not {nn.BatchNorm1d, nn.BatchNorm2d} & left
    reports = {report.name: report for report in rewritten.reports}
    assert reports["fold_pre_norm"].changed == ("head.bn",)
    # Two in each of three blocks, and two around the merging.
    assert len(reports["fold_residual"].changed) == 2 * 3 + 2
    assert CascadedGroupAttention not in left
    if format_ == "tflite":
        assert [p for p in reports["split_depthwise"].changed if "depthwise" in p] == [
            f"stages.{stage}.blocks.{block}.mixer.m.cascade.heads.0.depthwise"
            for stage, block in ((0, 0), (1, 0), (1, 1))
        ]
        assert all(report.refused == () for report in rewritten.reports[1:])


def test_features_are_rewritten_too() -> None:
    net = EfficientVit(SMALL, features_only=True)
    randomize(net, 0)
    net.double()
    x = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        for map_, expected in zip(rewrite(net, "tflite", (64, 96)).module(x), net(x), strict=True):
            torch.testing.assert_close(map_, expected, rtol=1e-9, atol=1e-9)
