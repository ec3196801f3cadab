"""Each rewrite alone on small networks: what it changes, what it refuses, and that it is exact."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mnv4_deploy.exporters.rewrites.base import ConvPlusMap, Rewrite, RewriteReport
from mnv4_deploy.exporters.rewrites.fold_batch_norm import fold_batch_norm
from mnv4_deploy.exporters.rewrites.fold_layer_scale import fold_layer_scale
from mnv4_deploy.exporters.rewrites.fold_pre_norm import fold_pre_norm
from mnv4_deploy.models.networks.layers import LayerScale

CHANNELS = 8


class Net(nn.Module):
    """``layers`` by name, wired by ``wiring(net, x)``."""

    def __init__(self, wiring: Callable[[nn.Module, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.wiring = wiring
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.wiring(self, x)


def conv(kernel: int = 3, **options: object) -> nn.Conv2d:
    options = {"padding": kernel // 2, "bias": False} | options
    return nn.Conv2d(CHANNELS, CHANNELS, kernel, **options)  # type: ignore[arg-type]


def norm(**options: bool) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(CHANNELS, **options)


def settled(module: nn.Module, seed: int = 0) -> nn.Module:
    """In float64 and eval mode, with no norm or layer scale near the identity."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            if layer.affine:
                layer.weight.data.uniform_(0.5, 1.5, generator=generator)
                layer.bias.data.normal_(0, 1, generator=generator)
            if layer.track_running_stats:
                layer.running_mean.normal_(0, 1, generator=generator)
                layer.running_var.uniform_(0.3, 3, generator=generator)
        elif isinstance(layer, LayerScale):
            layer.gamma.data.uniform_(0.2, 0.9, generator=generator)
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            layer.weight.data.normal_(0, 0.3, generator=generator)
    return module.double().eval()


def apply(
    rewrite: Rewrite, module: nn.Module, size: tuple[int, int] = (9, 12)
) -> tuple[RewriteReport, nn.Module]:
    """The report and the rewritten module, which must compute what ``module`` computes."""
    x = torch.randn(2, CHANNELS, *size, dtype=torch.float64, generator=_generator())
    changed = copy.deepcopy(module)
    with torch.no_grad():
        report = rewrite(changed, x[:1])
        torch.testing.assert_close(changed(x), module(x), rtol=0, atol=1e-11)
    return report, changed


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def test_batch_norm_goes_into_the_convolution_before_it() -> None:
    biased = conv(bias=True)
    net = settled(Net(lambda n, x: n.bn(n.conv(x)), conv=biased, bn=norm()))
    report, changed = apply(fold_batch_norm, net)
    assert report.changed == ("bn",) and report.refused == ()
    assert isinstance(changed.bn, nn.Identity)


def test_batch_norm_without_weights_of_its_own_is_folded() -> None:
    net = settled(Net(lambda n, x: n.bn(n.conv(x)), conv=conv(), bn=norm(affine=False)))
    assert apply(fold_batch_norm, net)[0].changed == ("bn",)


def test_identities_between_convolution_and_norm_do_not_matter() -> None:
    layers = {"conv": conv(), "gap": nn.Identity(), "bn": norm()}
    net = settled(Net(lambda n, x: n.bn(n.gap(n.conv(input=x))), **layers))
    assert apply(fold_batch_norm, net)[0].changed == ("bn",)


@pytest.mark.parametrize(
    ("wiring", "reason"),
    [
        pytest.param(
            lambda n, x: n.bn(y := n.conv(x)) + y,
            "the convolution before it has other users",
            id="two-users",
        ),
        pytest.param(
            lambda n, x: n.bn(n.conv(n.conv(x))),
            "the layer is called more than once",
            id="convolution-called-twice",
        ),
        pytest.param(
            lambda n, x: n.bn(n.conv(n.bn(x))),
            "the layer is called more than once",
            id="norm-called-twice",
        ),
        pytest.param(
            lambda n, x: n.bn(n.conv(x).relu()),
            "its input is not a convolution",
            id="behind-an-activation",
        ),
        pytest.param(
            lambda n, x: n.conv(n.bn(x)), "its input is not a convolution", id="norm-first"
        ),
    ],
)
def test_batch_norm_is_refused(wiring: Callable[[nn.Module, Tensor], Tensor], reason: str) -> None:
    net = settled(Net(wiring, conv=conv(), bn=norm()))
    report, changed = apply(fold_batch_norm, net)
    assert report.changed == ()
    assert ("bn", reason) in report.refused
    assert isinstance(changed.bn, nn.BatchNorm2d)


def test_batch_norm_without_running_statistics_is_refused() -> None:
    bare = norm(track_running_stats=False)
    net = settled(Net(lambda n, x: n.bn(n.conv(x)), conv=conv(), bn=bare))
    for rewrite, wiring in (
        (fold_batch_norm, net),
        (fold_pre_norm, settled(Net(lambda n, x: n.conv(n.bn(x)), conv=conv(), bn=bare))),
    ):
        assert apply(rewrite, wiring)[0].refused == (("bn", "it keeps no running statistics"),)


def test_a_weight_that_two_convolutions_share_stays_whole() -> None:
    net = Net(lambda n, x: n.b(n.bn(n.a(x))), a=conv(), bn=norm(), b=conv())
    net.b.weight = net.a.weight
    for rewrite in (fold_batch_norm, fold_pre_norm):
        assert apply(rewrite, settled(net))[0].changed == ("bn",)


def test_layer_scale_goes_into_the_convolution_before_it() -> None:
    scale = LayerScale(CHANNELS, 1e-5)
    net = settled(Net(lambda n, x: x + n.scale(n.conv(x)), conv=conv(1, bias=True), scale=scale))
    report, changed = apply(fold_layer_scale, net)
    assert report.changed == ("scale",)
    assert isinstance(changed.scale, nn.Identity)


@pytest.mark.parametrize(
    "wiring",
    [
        pytest.param(lambda n, x: n.scale(n.bn(n.conv(x))), id="norm-not-yet-folded"),
        pytest.param(lambda n, x: n.scale(y := n.conv(x)) + y, id="two-users"),
        pytest.param(lambda n, x: n.scale(n.conv(n.scale(x))), id="called-twice"),
    ],
)
def test_layer_scale_is_refused(wiring: Callable[[nn.Module, Tensor], Tensor]) -> None:
    scale = LayerScale(CHANNELS, 1e-5)
    net = settled(Net(wiring, conv=conv(), bn=norm(), scale=scale))
    report, changed = apply(fold_layer_scale, net)
    assert report.changed == ()
    assert report.refused[0][0] == "scale"
    assert isinstance(changed.scale, LayerScale)


@pytest.mark.parametrize("size", [(8, 8), (9, 12), (2, 3), (1, 1)])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"stride": 2}, id="stride-2"),
        pytest.param({"stride": 2, "groups": CHANNELS}, id="depthwise-stride-2"),
        pytest.param({"groups": 2, "bias": True}, id="grouped"),
        pytest.param({"dilation": 2, "padding": 2}, id="dilated"),
        pytest.param({"padding": "same"}, id="same"),
        pytest.param({"padding_mode": "replicate"}, id="replicate-padding"),
        pytest.param({"kernel": 1}, id="pointwise"),
    ],
)
def test_pre_norm_is_exact_at_every_border(
    options: dict[str, object], size: tuple[int, int]
) -> None:
    net = settled(Net(lambda n, x: n.conv(n.bn(x)), conv=conv(**options), bn=norm()))  # type: ignore[arg-type]
    report, changed = apply(fold_pre_norm, net, size)
    assert report.changed == ("bn",)
    assert isinstance(changed.bn, nn.Identity)


@pytest.mark.parametrize("bias", [True, False])
def test_pre_norm_goes_into_a_linear_layer(bias: bool) -> None:
    layers = {"bn": nn.BatchNorm1d(CHANNELS), "fc": nn.Linear(CHANNELS, 5, bias=bias)}
    net = settled(Net(lambda n, x: n.fc(n.bn(x.mean((2, 3)))), **layers))
    report, changed = apply(fold_pre_norm, net)
    assert report == RewriteReport("fold_pre_norm", changed=("bn",))
    assert isinstance(changed.bn, nn.Identity)
    assert type(changed.fc) is nn.Linear and changed.fc.bias is not None


def test_pre_norm_goes_into_all_linear_layers_that_read_it() -> None:
    fc = nn.Linear(CHANNELS, 3)
    layers = {"bn": nn.BatchNorm1d(CHANNELS, affine=False), "a": fc, "b": nn.Linear(CHANNELS, 3)}
    net = settled(Net(lambda n, x: n.a(y := n.bn(x.mean((2, 3)))) * n.b(y), **layers))
    net.b.weight = net.a.weight
    assert apply(fold_pre_norm, net)[0].changed == ("bn",)


@pytest.mark.parametrize(
    ("wiring", "reason"),
    [
        pytest.param(
            # Width and channels are alike: the shapes fit, the axes do not.
            lambda n, x: n.fc(n.bn2(x)),
            "something other than convolutions reads it",
            id="last-axis-of-a-map",
        ),
        pytest.param(
            lambda n, x: n.fc(n.bn(x.flatten(2)[:, :, :CHANNELS])),
            "something other than convolutions reads it",
            id="last-axis-of-a-sequence",
        ),
        pytest.param(
            lambda n, x: n.fc(n.bn(x.mean((2, 3))).relu()),
            "something other than convolutions reads it",
            id="activation-between",
        ),
        pytest.param(
            lambda n, x: n.fc(y := n.bn(x.mean((2, 3)))) + y,
            "something other than convolutions reads it",
            id="another-reader",
        ),
        pytest.param(
            lambda n, x: n.fc(n.fc(n.bn(x.mean((2, 3))))),
            "the layer is called more than once",
            id="called-twice",
        ),
    ],
)
def test_pre_norm_of_other_axes_is_refused(
    wiring: Callable[[nn.Module, Tensor], Tensor], reason: str
) -> None:
    layers = {"bn": nn.BatchNorm1d(CHANNELS), "bn2": norm(), "fc": nn.Linear(CHANNELS, CHANNELS)}
    report, _ = apply(fold_pre_norm, settled(Net(wiring, **layers)), (9, CHANNELS))
    assert report.changed == ()
    assert [why for _, why in report.refused] == [reason]


def test_one_bias_for_all_positions_would_be_wrong_at_the_border() -> None:
    """What the border map is there for: inside, the bias alone is right; outside, it is not."""
    net = settled(Net(lambda n, x: n.conv(n.bn(x)), conv=conv(), bn=norm()))
    _, changed = apply(fold_pre_norm, net)
    assert isinstance(changed.conv, ConvPlusMap)
    naive = copy.deepcopy(changed)
    naive.conv.bias_map.zero_()
    x = torch.randn(1, CHANNELS, 9, 12, dtype=torch.float64, generator=_generator())
    with torch.no_grad():
        error = (naive(x) - net(x)).abs().amax(dim=(0, 1))
    assert error[1:-1, 1:-1].max() < 1e-11
    for edge in (error[0], error[-1], error[:, 0], error[:, -1]):
        assert edge.min() > 0.1


def test_pre_norm_needs_no_map_without_padding() -> None:
    net = settled(Net(lambda n, x: n.conv(n.bn(x)), conv=conv(padding=0), bn=norm()))
    assert type(apply(fold_pre_norm, net)[1].conv) is nn.Conv2d


def test_border_map_moves_behind_a_pointwise_convolution() -> None:
    pointwise = nn.Conv2d(CHANNELS, 2, 1)
    layers = {"bn": norm(), "down": conv(stride=2, groups=CHANNELS), "proj": pointwise}
    net = settled(Net(lambda n, x: n.proj(n.down(n.bn(x))), **layers))
    _, changed = apply(fold_pre_norm, net)
    assert type(changed.down) is nn.Conv2d
    assert isinstance(changed.proj, ConvPlusMap)
    assert changed.proj.bias_map.shape == (1, 2, 5, 6)


@pytest.mark.parametrize(
    "wiring",
    [
        pytest.param(lambda n, x: n.proj(n.proj(n.down(n.bn(x)))), id="called-twice"),
        pytest.param(lambda n, x: n.proj(y := n.down(n.bn(x))) + y, id="not-the-only-reader"),
        pytest.param(lambda n, x: n.proj(n.down(n.bn(x)).relu()), id="behind-an-activation"),
    ],
)
def test_border_map_stays_where_it_arises(wiring: Callable[[nn.Module, Tensor], Tensor]) -> None:
    net = settled(Net(wiring, bn=norm(), down=conv(), proj=conv(1)))
    _, changed = apply(fold_pre_norm, net)
    assert isinstance(changed.down, ConvPlusMap)
    assert type(changed.proj) is nn.Conv2d


@pytest.mark.parametrize(
    ("wiring", "reason"),
    [
        pytest.param(
            lambda n, x: n.conv(y := n.bn(x)) + y,
            "something other than convolutions reads it",
            id="addition-reads-it",
        ),
        pytest.param(
            lambda n, x: n.bn(x), "something other than convolutions reads it", id="output"
        ),
        pytest.param(
            lambda n, x: n.conv(n.bn(n.bn(x))), "the layer is called more than once", id="twice"
        ),
        pytest.param(
            lambda n, x: n.conv(n.conv(n.bn(x))),
            "the layer is called more than once",
            id="convolution-called-twice",
        ),
    ],
)
def test_pre_norm_is_refused(wiring: Callable[[nn.Module, Tensor], Tensor], reason: str) -> None:
    net = settled(Net(wiring, conv=conv(), bn=norm()))
    report, changed = apply(fold_pre_norm, net)
    assert report.changed == ()
    assert ("bn", reason) in report.refused
    assert isinstance(changed.bn, nn.BatchNorm2d)


def test_nothing_to_do_is_not_an_error() -> None:
    net = settled(Net(lambda n, x: n.conv(x), conv=conv()))
    for rewrite in (fold_batch_norm, fold_layer_scale, fold_pre_norm):
        report, _ = apply(rewrite, net)
        assert report == RewriteReport(rewrite.__name__)
