"""Optimised rounding: on the quantizers' own grid, and closer to float than nearest rounding."""

import copy
import itertools

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn import functional

from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.exporters.recipes import recipe
from mnv4_deploy.exporters.recovery.rounding import optimise_rounding
from mnv4_deploy.exporters.to_onnx.convert import export_onnx
from mnv4_deploy.exporters.to_onnx.quantize import quantize_onnx
from mnv4_deploy.exporters.to_tflite.convert import export_tflite
from mnv4_deploy.exporters.to_tflite.flatbuffer import TfliteFile
from mnv4_deploy.exporters.to_tflite.quantize import quantize_tflite

SIZE = (16, 16)


class Net(nn.Module):
    """A dense, a depthwise, a grouped, a strided, a 1x1 and a linear layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.act = nn.ReLU()
        self.depthwise = nn.Conv2d(8, 8, 5, padding=2, groups=8)
        self.grouped = nn.Conv2d(8, 12, 3, padding=2, dilation=2, groups=4)
        self.point = nn.Conv2d(12, 16, 1, bias=False)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(16, 7)

    def forward(self, x):
        x = self.depthwise(self.act(self.bn(self.stem(x))))
        return self.fc(self.pool(self.point(self.grouped(x))).flatten(1))


LAYERS = ("stem", "depthwise", "grouped", "point", "fc")


def images(count=32, seed=0):
    """Neighbouring pixels are alike, as in photographs: inputs of a layer are correlated."""
    noise = torch.randn(count, 3, *SIZE, generator=torch.Generator().manual_seed(seed))
    return 0.5 + functional.avg_pool2d(noise, 5, stride=1, padding=2) * 4


@pytest.fixture(scope="module")
def original():
    torch.manual_seed(0)
    net = Net().eval()
    net.bn.running_var.fill_(0.3)
    return net


@pytest.fixture(scope="module")
def rounded(original):
    made = {}
    for weights in ("pairs", "full"):
        module = copy.deepcopy(original)
        made[weights] = module, optimise_rounding(module, images().split(8), weights=weights)
    return made


def folded(original):
    """The weights before rounding, with the norm folded by hand."""
    net = copy.deepcopy(original)
    scale = net.bn.weight / torch.sqrt(net.bn.running_var + net.bn.eps)
    net.stem.bias = nn.Parameter(net.bn.bias - net.bn.running_mean * scale)
    net.stem.weight = nn.Parameter(net.stem.weight * scale.view(-1, 1, 1, 1))
    net.bn = nn.Identity()
    return net.eval()


def pair_sums(rows):
    """``[O, I, kh, kw]`` or ``[O, I]``: sums of neighbours in the order kh, kw, I."""
    rows = rows.movedim(1, -1).flatten(1)
    return functional.pad(rows, (0, rows.shape[1] % 2)).unflatten(1, (-1, 2)).sum(dim=2)


def peaks(rows, weights, name):
    """What sets the scale of each channel, times 127. Of depthwise layers no pairs are added."""
    largest = rows.flatten(1).abs().amax(dim=1)
    if weights == "pairs" and name != "depthwise":
        largest = torch.maximum(largest, pair_sums(rows).abs().amax(dim=1))
    return largest.view(-1, *[1] * (rows.ndim - 1))


@pytest.mark.parametrize("weights", ["pairs", "full"])
def test_weights_are_codes_and_what_sets_the_scale_stays(original, rounded, weights):
    before, after = folded(original), rounded[weights][0]
    moved = bound_by_pairs = 0
    for name in LAYERS:
        old = before.get_submodule(name).weight.detach()
        new = after.get_submodule(name).weight.detach()
        peak = peaks(old, weights, name)
        torch.testing.assert_close(peaks(new, weights, name), peak, rtol=2**-16, atol=0)
        codes = new / (peaks(new, weights, name) / 127)
        assert (codes - codes.round()).abs().max() < 1e-4
        assert codes.round().abs().max() <= 127
        singles = codes.round().flatten(1).abs().amax(dim=1)
        if weights == "pairs" and name != "depthwise":
            sums = pair_sums(codes.round()).abs().amax(dim=1)
            assert (torch.maximum(singles, sums) == 127).all()
            bound_by_pairs += int((singles < 127).sum())
        else:
            assert (singles == 127).all()
        moved += int((codes.round() != (old / (peak / 127)).round()).sum())
    assert moved > 50  # this is not nearest rounding
    assert (bound_by_pairs > 5) == (weights == "pairs")


def layer_inputs(net, x):
    seen = {}
    hooks = [
        net.get_submodule(n).register_forward_hook(
            lambda _, args, _out, n=n: seen.update({n: args[0]})
        )
        for n in LAYERS
    ]
    net(x)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("weights", ["pairs", "full"])
def test_each_layers_output_is_closer_than_with_nearest_rounding(original, rounded, weights):
    net, (module, report) = folded(original), rounded[weights]
    assert [layer.path for layer in report.layers] == list(LAYERS)
    with torch.no_grad():
        for name, x in layer_inputs(net, images()).items():
            layer, nearest = net.get_submodule(name), copy.deepcopy(net.get_submodule(name))
            scale = peaks(layer.weight, weights, name) / 127
            nearest.weight = nn.Parameter(torch.round(layer.weight / scale) * scale)
            true = layer(x)
            stock = (nearest(x) - true).square().mean()
            ours = (module.get_submodule(name)(x) - true).square().mean()
            assert ours < 0.9 * stock, name
    assert all(layer.chosen < layer.nearest for layer in report.layers)


def test_no_codes_of_a_small_layer_are_much_better():
    """All 3^5 neighbours of the exact weights of one channel, tried one by one."""
    torch.manual_seed(3)
    layer = nn.Linear(6, 1, bias=False)
    layer.weight.data[0, 0] = 1.0  # the largest
    mixing = torch.randn(6, 6)
    x = torch.randn(4000, 6) @ mixing
    old = layer.weight.detach().double().clone()
    report = optimise_rounding(nn.Sequential(layer), [x], weights="full")
    covariance = torch.cov(x.double().T, correction=0)
    base = torch.floor(old * 127)[0, 1:]
    best = np.inf
    for steps in itertools.product((0, 1), repeat=5):
        change = torch.zeros(6, dtype=torch.float64)
        change[1:] = (base + torch.tensor(steps)) / 127 - old[0, 1:]
        best = min(best, float(change @ covariance @ change))
    change = layer.weight.detach().double()[0] - old[0]
    ours = float(change @ covariance @ change)
    assert report.layers[0].chosen == pytest.approx(ours, rel=1e-6)
    assert ours <= 1.5 * best
    assert ours < report.layers[0].nearest


def test_onnx_int8_holds_exactly_these_weights(rounded, tmp_path):
    module = rounded["pairs"][0]
    export_onnx(module, tmp_path / "fp32.onnx", input_shape=(1, *SIZE))
    quantize_onnx(tmp_path / "fp32.onnx", tmp_path / "int8.onnx", [images(4).numpy()])
    graph = onnx.load(tmp_path / "int8.onnx").graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    found = {}
    for node in graph.node:
        codes = constants.get(node.input[0])
        if node.op_type == "DequantizeLinear" and codes is not None and codes.dtype == np.int8:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
            shape = [-1 if i == axis else 1 for i in range(codes.ndim)]
            scale = constants[node.input[1]].reshape(shape)
            found[node.input[0]] = codes.astype(np.float32) * scale
    # The first convolution of a float image stays in float: with the rounded weights, as they are.
    stem, *expected = [module.get_submodule(name).weight.detach().numpy() for name in LAYERS]
    first = next(node for node in graph.node if node.op_type == "Conv")
    np.testing.assert_array_equal(constants[first.input[1]], stem)
    assert len(found) == len(expected)
    for weight in expected:
        assert any(
            np.array_equal(weight, other) or np.array_equal(weight.T, other)
            for other in found.values()
            if weight.size == other.size
        )


def test_tflite_int8_holds_exactly_these_weights(rounded, tmp_path):
    module = rounded["full"][0]
    export_tflite(module, tmp_path / "fp32", input_shape=(1, *SIZE))
    batches = [image[None].permute(0, 2, 3, 1).numpy() for image in images(4)]
    quantize_tflite(tmp_path / "fp32", tmp_path / "int8", batches, recipe=recipe("xnnpack"))
    file = TfliteFile(tmp_path / "int8")
    weights = []
    for operator in file.operators("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
        tensor = int(operator.inputs[1])
        parameters = file.graph.tensors[tensor].quantization
        codes = file.constant(tensor, np.int8).astype(np.float32)
        shape = [1] * codes.ndim
        shape[int(parameters.quantizedDimension)] = -1
        weights.append(codes * np.asarray(parameters.scale, np.float32).reshape(shape))
    stored = np.sort(np.concatenate([w.ravel() for w in weights]))
    expected = [module.get_submodule(n).weight.detach().numpy().ravel() for n in LAYERS]
    np.testing.assert_array_equal(stored, np.sort(np.concatenate(expected)))


def test_the_same_twice_and_in_other_batches(original, rounded):
    again = copy.deepcopy(original)
    optimise_rounding(again, images().split(32), weights="pairs")
    for name in LAYERS:
        first = rounded["pairs"][0].get_submodule(name).weight
        assert torch.equal(first, again.get_submodule(name).weight)


def test_inputs_that_never_vary_and_weights_of_zero():
    conv = nn.Conv2d(3, 4, 1)
    conv.weight.data[1] = 0
    report = optimise_rounding(nn.Sequential(conv), [torch.ones(2, 3, 4, 4)], weights="full")
    assert torch.isfinite(conv.weight).all() and torch.isfinite(conv.bias).all()
    assert not conv.weight[1].any()
    assert report.layers[0].chosen == pytest.approx(0, abs=1e-12)


def test_no_images():
    with pytest.raises(UnsupportedError, match="there were none"):
        optimise_rounding(Net(), [], weights="full")
