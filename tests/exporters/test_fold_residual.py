"""A residual around a depthwise convolution becomes its centre tap, and no other sum does."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mnv4_deploy.exporters.rewrites.base import RewriteReport
from mnv4_deploy.exporters.rewrites.fold_residual import fold_residual

CHANNELS = 6
NOTHING = RewriteReport("fold_residual")


class Residual(nn.Module):
    """``wiring(branch, x)``, by default ``x + branch(x)``."""

    def __init__(
        self,
        branch: nn.Module,
        wiring: Callable[[nn.Module, Tensor], Tensor] = lambda branch, x: x + branch(x),
    ) -> None:
        super().__init__()
        self.branch = branch
        self.wiring = wiring

    def forward(self, x: Tensor) -> Tensor:
        return self.wiring(self.branch, x)


def depthwise(kernel: int | tuple[int, int] = 3, **options: object) -> nn.Conv2d:
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    options = {"groups": CHANNELS, "padding": (sides[0] // 2, sides[1] // 2)} | options
    return nn.Conv2d(CHANNELS, CHANNELS, sides, **options)


def apply(*layers: nn.Module) -> tuple[RewriteReport, nn.Sequential]:
    """The report and the rewritten network, which must compute what the given one computes."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(*layers).double().eval()
    for parameter in net.parameters():
        parameter.data.normal_(0, 0.4, generator=generator)
    x = torch.randn(2, CHANNELS, 7, 10, dtype=torch.float64, generator=generator)
    changed = copy.deepcopy(net)
    with torch.no_grad():
        report = fold_residual(changed, x[:1])
        torch.testing.assert_close(changed(x), net(x), rtol=0, atol=1e-12)
    return report, changed


@pytest.mark.parametrize(
    "conv",
    [
        pytest.param(depthwise(), id="3x3"),
        pytest.param(depthwise(5, bias=False), id="5x5-no-bias"),
        pytest.param(depthwise((3, 5)), id="3x5"),
        pytest.param(depthwise((1, 7)), id="1x7"),
        pytest.param(depthwise(1), id="1x1"),
        pytest.param(depthwise(dilation=2, padding=2), id="dilated"),
    ],
)
def test_the_convolution_takes_the_sums_place(conv: nn.Conv2d) -> None:
    report, changed = apply(nn.ReLU(), Residual(conv), nn.ReLU())
    assert report == RewriteReport("fold_residual", changed=("1",))
    assert type(changed[1]) is nn.Conv2d


def test_only_the_centre_tap_changes() -> None:
    conv = depthwise(5)
    before = copy.deepcopy(conv.weight.detach())
    net = nn.Sequential(Residual(conv))
    fold_residual(net, torch.zeros(1, CHANNELS, 6, 6))
    difference = net[0].weight.detach() - before
    expected = torch.zeros_like(before)
    expected[:, 0, 2, 2] = 1
    torch.testing.assert_close(difference, expected)
    assert net[0].bias is conv.bias


@pytest.mark.parametrize(
    "wiring",
    [
        pytest.param(lambda b, x: b(x) + x, id="other-order"),
        pytest.param(lambda b, x: torch.add(x, b(x)), id="torch.add"),
        pytest.param(lambda b, x: b(input=x) + x, id="by-keyword"),
    ],
)
def test_ways_to_write_the_sum(wiring: Callable[[nn.Module, Tensor], Tensor]) -> None:
    assert apply(Residual(depthwise(), wiring))[0].changed == ("0",)


def test_several_and_nested_ones() -> None:
    inner = nn.Sequential(Residual(depthwise()), nn.ReLU(), Residual(depthwise(5)))
    assert apply(inner, Residual(depthwise()))[0].changed == ("0.0", "0.2", "1")


def test_a_weight_that_two_convolutions_share_changes_in_one() -> None:
    folded, plain = depthwise(), depthwise()
    plain.weight = folded.weight
    assert apply(Residual(folded), plain)[0].changed == ("0",)


@pytest.mark.parametrize(
    "conv",
    [
        pytest.param(depthwise(groups=1), id="dense"),
        pytest.param(depthwise(groups=2), id="grouped"),
        pytest.param(depthwise(padding_mode="replicate"), id="replicated-border"),
        pytest.param(depthwise(padding_mode="circular"), id="circular-border"),
        pytest.param(nn.Sequential(depthwise(), nn.ReLU()), id="activation-behind-it"),
        pytest.param(nn.Sequential(nn.ReLU(), depthwise()), id="activation-before-it"),
        pytest.param(nn.Sequential(depthwise(), depthwise()), id="two-convolutions"),
        pytest.param(nn.Sequential(depthwise(2, padding=1), nn.AvgPool2d(2, 1)), id="even-side"),
    ],
)
def test_other_branches_stay(conv: nn.Module) -> None:
    report, changed = apply(Residual(conv))
    assert report == NOTHING
    assert isinstance(changed[0], Residual)


@pytest.mark.parametrize(
    ("conv", "size"),
    [
        # Maps of one row or column are broadcast in the sum: no taps could do that.
        pytest.param(depthwise(3, stride=2), (1, 1), id="stride-2"),
        pytest.param(depthwise(3, padding=0), (3, 3), id="no-padding"),
        pytest.param(depthwise(1, padding=1), (1, 1), id="too-much-padding"),
        pytest.param(depthwise((3, 1), padding=(0, 0)), (3, 4), id="shorter"),
    ],
)
def test_maps_that_change_their_size_stay(conv: nn.Conv2d, size: tuple[int, int]) -> None:
    net = nn.Sequential(Residual(conv)).double()
    x = torch.randn(1, CHANNELS, *size, dtype=torch.float64)
    expected = net(x)
    assert fold_residual(net, x) == NOTHING
    torch.testing.assert_close(net(x), expected)


@pytest.mark.parametrize(
    "wiring",
    [
        pytest.param(lambda b, x: x + (y := b(x)) + y, id="result-used-twice"),
        pytest.param(lambda b, x: (x + b(x)).relu(), id="more-behind-the-sum"),
        pytest.param(lambda b, x: x + b(x.relu()), id="more-before-the-convolution"),
        pytest.param(lambda b, x: x.relu() + b(x), id="another-shortcut"),
        pytest.param(lambda b, x: x + b(b(x)), id="called-twice"),
        pytest.param(lambda b, x: x - b(x), id="difference"),
        pytest.param(lambda b, x: torch.add(x, b(x), alpha=2), id="weighted"),
        pytest.param(lambda b, x: torch.add(b(x), other=x, alpha=-1), id="weighted-by-keyword"),
        pytest.param(lambda b, x: (y := b(x)) + y, id="doubled"),
        pytest.param(lambda b, x: b(x) + 1, id="constant"),
        pytest.param(lambda b, x: b(x), id="no-sum"),
    ],
)
def test_other_wirings_stay(wiring: Callable[[nn.Module, Tensor], Tensor]) -> None:
    report, changed = apply(Residual(depthwise(), wiring))
    assert report == NOTHING
    assert isinstance(changed[0], Residual)


def test_a_shared_layer_stays() -> None:
    conv = depthwise()
    assert apply(Residual(conv), conv)[0] == NOTHING
    residual = Residual(depthwise())
    assert apply(residual, nn.ReLU(), residual)[0] == NOTHING


def test_a_convolution_that_someone_else_reads_stays() -> None:
    class Tapped(nn.Module):
        """The branch's own layer is also called from outside the residual."""

        def __init__(self) -> None:
            super().__init__()
            self.residual = Residual(depthwise())

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.residual(x) + self.residual.branch(x.relu())
            return y

    assert apply(Tapped())[0] == NOTHING


def test_the_whole_network_keeps_its_root() -> None:
    """There is no place to put the convolution where the residual is the whole network."""
    net = Residual(depthwise())
    assert fold_residual(net, torch.zeros(1, CHANNELS, 4, 4)) == NOTHING
