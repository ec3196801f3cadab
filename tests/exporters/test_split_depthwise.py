"""Large depthwise convolutions become sums of ones that XNNPACK has kernels for."""

import copy

import pytest
import torch
from torch import nn

from mnv4_deploy.exporters.rewrites.base import RewriteReport
from mnv4_deploy.exporters.rewrites.split_depthwise import SummedDepthwise, split_depthwise

CHANNELS = 4


def depthwise(kernel: int | tuple[int, int], **options: object) -> nn.Conv2d:
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    options = {"groups": CHANNELS, "padding": (sides[0] // 2, sides[1] // 2)} | options
    return nn.Conv2d(CHANNELS, options.pop("after", CHANNELS), sides, **options)


def apply(conv: nn.Conv2d, size: tuple[int, int] = (14, 14)) -> tuple[RewriteReport, nn.Module]:
    """The report and what is now in the place of ``conv``, which must compute the same."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(conv).double()
    for parameter in net.parameters():
        parameter.data.normal_(0, 0.4, generator=generator)
    x = torch.randn(2, CHANNELS, *size, dtype=torch.float64, generator=generator)
    changed = copy.deepcopy(net)
    with torch.no_grad():
        report = split_depthwise(changed, x[:1])
        torch.testing.assert_close(changed(x), net(x), rtol=0, atol=1e-12)
    return report, changed[0]


@pytest.mark.parametrize("size", [(14, 14), (7, 9), (4, 1)])
@pytest.mark.parametrize("stride", [1, 2, (2, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_7x7_is_one_of_3_and_two_of_2_rows(
    size: tuple[int, int], stride: int | tuple[int, int], bias: bool
) -> None:
    report, changed = apply(depthwise(7, stride=stride, bias=bias), size)
    assert report == RewriteReport("split_depthwise", changed=("0",))
    assert isinstance(changed, SummedDepthwise)
    parts = [part for part in changed.parts if isinstance(part, nn.Conv2d)]
    assert [part.kernel_size for part in parts] == [(3, 7), (2, 7), (2, 7)]
    assert [part.dilation for part in parts] == [(1, 1), (4, 1), (6, 1)]
    assert all(part.groups == CHANNELS for part in parts)
    assert [part.bias is not None for part in parts] == [bias, False, False]


@pytest.mark.parametrize(
    ("kernel", "rows"),
    [((9, 3), [3, 2, 2, 2]), ((5, 7), [3, 2]), ((31, 1), [3, *14 * [2]]), ((7, 8), [3, 2, 2])],
)
def test_other_sides(kernel: tuple[int, int], rows: list[int]) -> None:
    report, changed = apply(depthwise(kernel), (16, 17))
    assert report.changed == ("0",)
    assert [part.kernel_size[0] for part in changed.parts] == rows
    taps = sum(part.kernel_size[0] * part.kernel_size[1] for part in changed.parts)
    assert taps == kernel[0] * kernel[1]
    assert all(part.kernel_size[0] * part.kernel_size[1] <= 25 for part in changed.parts)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("height", "rows"), [(1, [3]), (2, [3]), (3, [3, 2]), (4, [3, 2, 2]), (9, [3, 2, 2])]
)
def test_rows_that_meet_only_padding_are_left_out(
    height: int, rows: list[int], stride: int
) -> None:
    """All of what they add is zero, which gives int8 a scale near 0 that XNNPACK refuses."""
    _, changed = apply(depthwise(7, stride=stride), (height, 5))
    assert [part.kernel_size[0] for part in changed.parts] == rows
    ones = torch.ones(1, CHANNELS, height, 5, dtype=torch.float64)
    assert all(part(ones).abs().max() > 0.01 for part in changed.parts)


def test_no_part_is_empty_in_float32() -> None:
    """Parts are made without values; all of them must have been filled."""
    conv = depthwise(7)
    net = nn.Sequential(conv)
    split_depthwise(net, torch.zeros(1, CHANNELS, 9, 9))
    assert {(p.device.type, p.dtype) for p in net.parameters()} == {("cpu", torch.float32)}
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in conv.parameters())


def test_columns_may_be_padded_as_they_like() -> None:
    assert apply(depthwise(7, padding=(3, 1)))[0].changed == ("0",)


def test_several_results_a_channel() -> None:
    assert apply(depthwise(7, after=2 * CHANNELS))[0].changed == ("0",)


@pytest.mark.parametrize(
    "conv",
    [
        pytest.param(depthwise(5), id="5x5"),
        pytest.param(depthwise(3, stride=2), id="3x3"),
        pytest.param(depthwise((25, 1)), id="25-taps"),
        pytest.param(depthwise(7, groups=1), id="dense"),
        pytest.param(depthwise(7, groups=2), id="grouped"),
        pytest.param(depthwise(1), id="pointwise"),
    ],
)
def test_others_are_none_of_its_business(conv: nn.Conv2d) -> None:
    report, changed = apply(conv)
    assert report == RewriteReport("split_depthwise")
    assert type(changed) is nn.Conv2d


@pytest.mark.parametrize(
    ("conv", "reason"),
    [
        (depthwise(9), "3 of its rows have more than 25 taps"),
        (depthwise((3, 9)), "3 of its rows have more than 25 taps"),
        (depthwise(7, dilation=2, padding=6), "it is dilated or not padded with zeros"),
        (depthwise(7, padding_mode="reflect"), "it is dilated or not padded with zeros"),
        (depthwise(7, padding=0), "it is not padded by half its height"),
        (depthwise((6, 7)), "it is not padded by half its height"),
    ],
)
def test_large_ones_that_it_cannot_split(conv: nn.Conv2d, reason: str) -> None:
    report, changed = apply(conv)
    assert report == RewriteReport("split_depthwise", refused=(("0", reason),))
    assert type(changed) is nn.Conv2d


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_padding_by_name(padding: str) -> None:
    report, changed = apply(depthwise(7, padding=padding))
    assert report.refused == (("0", "it is not padded by half its height"),)
    assert type(changed) is nn.Conv2d


def test_a_layer_that_is_called_twice() -> None:
    conv = depthwise(7)
    net = nn.Sequential(conv, nn.ReLU(), conv).double()
    x = torch.randn(1, CHANNELS, 9, 9, dtype=torch.float64)
    expected = net(x)
    report = split_depthwise(net, x)
    torch.testing.assert_close(net(x), expected)
    assert report.changed == ("0",)
