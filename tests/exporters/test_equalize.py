"""Equalization: the function stays, ranges become more equal, refusals have reasons."""

import copy

import pytest
import torch
from torch import nn

from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.exporters.recovery.equalize import equalize
from mnv4_deploy.exporters.rewrites.chains import rewrite

SIZE = (12, 16)


class Separable(nn.Module):
    """Expand, depthwise, project twice, with a residual; ``act`` between."""

    def __init__(self, act: type[nn.Module], channels: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.expand = nn.Conv2d(6, channels, 1)
        self.act1 = act()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.act2 = act()
        self.project = nn.Conv2d(channels, 6, 1)
        self.grouped = nn.Conv2d(6, 8, 3, groups=2)
        self.act3 = act()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.bn(self.stem(x))
        x = x + self.project(self.act2(self.depthwise(self.act1(self.expand(x)))))
        return self.fc(self.pool(self.act3(self.grouped(x))).flatten(1))


def unequal(module, *, size=1.0, seed=0):
    """Channels whose ranges differ by factors of up to 64."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            spread = 2.0 ** torch.randint(-5, 2, (layer.out_channels,), generator=generator)
            layer.weight.data.normal_(0, 0.3, generator=generator)
            layer.weight.data *= size * spread.view(-1, 1, 1, 1)
            if layer.bias is not None:
                layer.bias.data = 0.2 * size * spread
        elif isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1, generator=generator)
            layer.running_var.uniform_(0.5, 2, generator=generator)
    return module.eval()


def inputs(count=6, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, *SIZE, generator=generator)


def relative(a, b):
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_relu_chains_compute_the_same_on_any_input(dtype):
    module = unequal(Separable(nn.ReLU)).to(dtype)
    equalized = copy.deepcopy(module)
    report = equalize(equalized, inputs(1).to(dtype), [inputs().to(dtype)])
    unseen = 5 * inputs(8, seed=9).to(dtype)
    with torch.no_grad():
        error = relative(equalized(unseen), module(unseen))
    assert error <= (1e-9 if dtype == torch.float64 else 1e-5)  # float32: the folded norm
    assert {"expand", "depthwise"} <= {m for g in report.changed for m in g.makers}
    assert dict(report.refused)["fc"] == "it is the result"
    assert equalized.state_dict().keys() >= {"expand.weight", "stem.weight", "fc.bias"}


def test_a_residual_is_one_group_of_all_that_make_and_read_it():
    report = equalize(unequal(Separable(nn.ReLU)), inputs(1), [inputs()])
    (group,) = [g for g in report.changed if "stem" in g.makers]
    assert group.makers == ("stem", "project")
    assert set(group.readers) == {"expand", "grouped"}


def test_factors_are_powers_of_two_so_float32_results_do_not_change_at_all():
    module = unequal(Separable(nn.ReLU))
    module.bn = nn.Identity()
    before = module(inputs()).detach()
    report = equalize(module, inputs(1), [inputs()])
    assert report.changed
    assert torch.equal(module(inputs()), before)


def spread_of(module, layer, x):
    """The largest over the smallest channel peak of ``layer``'s result."""
    seen = []
    hook = module.get_submodule(layer).register_forward_hook(lambda *a: seen.append(a[-1]))
    module(x)
    hook.remove()
    peaks = seen[0].detach().amax(dim=(0, 2, 3))
    return float(peaks.max() / peaks.min())


def test_channels_in_front_of_a_depthwise_share_the_range_afterwards():
    module = unequal(Separable(nn.ReLU))
    before = spread_of(module, "act1", inputs())
    equalize(module, inputs(1), [inputs()])
    assert before > 16
    assert spread_of(module, "act1", inputs()) < before / 4


@pytest.mark.parametrize("size", [0.5, 4.0])
def test_relu6_is_exact_on_the_images_and_holds_channels_that_it_clips(size):
    module = unequal(Separable(nn.ReLU6), size=size).double()
    x = inputs().double()
    equalized = copy.deepcopy(module)
    report = equalize(equalized, x[:1], [x[:4], x[4:]])
    assert report.changed
    with torch.no_grad():
        assert relative(equalized(x), module(x)) <= 1e-9
        clipped = (module.expand(module.bn(module.stem(x))).amax(dim=(0, 2, 3)) > 6).sum()
    held = {g.makers: g.held for g in report.changed}.get(("expand",), int(clipped))
    assert held == clipped
    assert (clipped > 0) == (size > 1)


@pytest.mark.parametrize("act", [nn.GELU, nn.Hardswish, nn.SiLU])
def test_what_is_not_homogeneous_is_refused_by_name(act):
    module = unequal(Separable(act))
    bias = module.expand.bias.detach().clone()
    report = equalize(module, inputs(1), [inputs()])
    reasons = dict(report.refused)
    assert reasons["expand"] == reasons["depthwise"] == f"{act.__name__} reads it"
    assert torch.equal(module.expand.bias, bias)


def test_a_layer_that_is_called_twice_is_left_alone():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.both = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.both(torch.relu(self.both(torch.relu(self.first(x)))))

    report = equalize(unequal(Shared()), inputs(1), [inputs()])
    assert report.changed == ()
    assert dict(report.refused) == {"first": "Conv2d reads it"}


def test_the_rewrites_accept_the_result(random_module):
    module = copy.deepcopy(random_module("conv-s-035")).double()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    equalized = copy.deepcopy(module)
    report = equalize(equalized, x[:1], [x])
    rewritten = rewrite(equalized, "onnx", (64, 64)).module
    with torch.no_grad():
        assert relative(rewritten(x), module(x)) <= 1e-9
    assert len(report.changed) > 5


def test_no_images():
    with pytest.raises(UnsupportedError, match="there were none"):
        equalize(unequal(Separable(nn.ReLU)), inputs(1), [])
