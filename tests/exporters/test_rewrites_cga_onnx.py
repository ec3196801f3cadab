"""Cascaded group attention rewritten for ONNX: exact, and what the float and int8 files hold."""

import copy
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from mnv4_deploy.exporters.rewrites.base import RewriteReport
from mnv4_deploy.exporters.rewrites.cascaded_group_attention import cga_for_onnx
from mnv4_deploy.exporters.rewrites.chains import rewrite
from mnv4_deploy.exporters.rewrites.fold_batch_norm import fold_batch_norm
from mnv4_deploy.exporters.to_onnx.convert import export_onnx
from mnv4_deploy.exporters.to_onnx.quantize import quantize_onnx
from mnv4_deploy.models.networks.cascaded_group_attention import (
    CascadedGroupAttention,
    LocalWindowAttention,
)
from mnv4_deploy.models.networks.efficientvit import EfficientVit
from mnv4_deploy.models.networks.efficientvit_variants import Variant
from mnv4_deploy.models.randomize import randomize

HEADS = (2, 3)
# At 160x200 px the stages have 10x13 positions in four windows (padded), and 5x7 in one.
SIZE = (160, 200)
SMALL = Variant("small", "", (64, 48), (1, 1), HEADS, (7, 5, 3), 0.0)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Files:
    module: nn.Module
    fp32: Path
    int8: Path
    images: list[np.ndarray]

    def expected(self, images):
        with torch.no_grad():
            return self.module(torch.from_numpy(images)).numpy()


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit-onnx")
    module = EfficientVit(SMALL, num_classes=5)
    randomize(module, 0)
    rewritten = rewrite(module.double(), "onnx", SIZE)
    images = list(np.random.default_rng(0).normal(size=(8, 1, 3, *SIZE)).astype(np.float32))
    files = Files(module.float(), folder / "fp32.onnx", folder / "int8.onnx", images)
    export_onnx(rewritten.module.float(), files.fp32, input_shape=(1, *SIZE), dynamic_batch=True)
    quantize_onnx(files.fp32, files.int8, images, float_modules=rewritten.float_modules)
    return files


def run(path, images):
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": images})[0]


def kinds(path):
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def in_cascade(path):
    return [n for n in onnx.load(path).graph.node if ".cascade" in n.name.split("/")[0]]


@pytest.mark.parametrize(
    "size",
    [
        pytest.param((12, 12), id="whole-windows"),
        pytest.param((12, 8), id="not-square"),
        pytest.param((9, 11), id="padded"),
        pytest.param((2, 7), id="lower-than-a-window"),
        pytest.param((4, 4), id="one-window"),
        pytest.param((3, 2), id="smaller-than-a-window"),
        pytest.param((1, 1), id="one-position"),
    ],
)
def test_exact(size):
    attention = CascadedGroupAttention(12, heads=3, key_dim=5, window=4, kernels=(7, 3, 5))
    net = nn.Sequential(LocalWindowAttention(attention)).double().eval()
    generator = torch.Generator().manual_seed(0)
    for key, tensor in net.state_dict().items():
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=generator)
        elif tensor.is_floating_point():
            tensor.normal_(0, 0.5, generator=generator)
    x = torch.randn(2, 12, *size, dtype=torch.float64, generator=generator)
    changed = copy.deepcopy(net)
    with torch.no_grad():
        fold_batch_norm(changed, x[:1])
        report = cga_for_onnx(changed, x[:1])
        expected = net(x)
        assert (changed(x) - expected).abs().max() < 1e-12 * expected.abs().max()
    assert report == RewriteReport("cga_for_onnx", ("0",), float_modules=("0.cascade",))
    # The scale of the logits and the missing biases of the keys are the copy's alone.
    assert all(layer.bias is None for p, layer in changed.named_modules() if p.endswith(".key"))


def test_norms_that_are_not_folded_are_refused():
    attention = CascadedGroupAttention(12, heads=3, key_dim=5, window=4, kernels=(7, 3, 5))
    net = nn.Sequential(LocalWindowAttention(attention)).eval()
    report = cga_for_onnx(net, torch.zeros(1, 12, 6, 6))
    assert report.changed == report.float_modules == () and len(report.refused) == 1


def test_float_file_equals_pytorch_for_every_batch(vit):
    images = np.concatenate(vit.images)
    for batch in (images[:1], images[1:4], images):
        expected = vit.expected(batch)
        assert np.abs(run(vit.fp32, batch) - expected).max() < 1e-5 * np.abs(expected).max()


def test_attention_moves_nothing_that_it_need_not(vit):
    found = kinds(vit.fp32)
    assert found["Softmax"] == sum(HEADS)
    # Groups of heads are one Split an attention; queries, keys and values none.
    assert found["Split"] == len(HEADS)
    # A map to rows and back (free beside blocked convolutions) in each attention and for the
    # queries of each head, keys on the left of their product, into windows and out of them.
    assert found["Transpose"] == 2 * len(HEADS) + 3 * sum(HEADS) + 2
    assert not {"Gather", "GatherND", "Expand", "BatchNormalization"} & found.keys()
    assert not {"Div", "Sqrt"} & found.keys()


def test_onnxruntime_transposes_windows_only(vit, tmp_path):
    """All other permutes became part of the blocked convolutions' reorders and of products."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(vit.fp32, options, providers=["CPUExecutionProvider"])
    left = onnx.load(tmp_path / "optimized.onnx").graph.node
    assert sum(n.op_type == "Transpose" and ".mixer" in n.name for n in left) == 2


def test_cascade_is_one_float_island_in_the_int8_file(vit):
    graph = onnx.load(vit.int8).graph
    makers = {name: node for node in graph.node for name in node.output}
    own = in_cascade(vit.int8)
    arithmetic = {"Conv", "MatMul", "Gemm", "Add", "Softmax", "Split", "Concat", "Relu"}
    computing = [n for n in own if n.op_type in arithmetic]
    assert Counter(n.op_type for n in computing)["Softmax"] == sum(HEADS)
    read = [makers[i].op_type for n in computing for i in n.input if i in makers]
    assert "DequantizeLinear" not in read
    assert sum(n.op_type == "QuantizeLinear" for n in own) <= len(HEADS)
    # The projections and the feed-forwards around them are int8.
    for stage in range(len(HEADS)):
        (proj,) = (n for n in graph.node if n.name == f"stages.{stage}.blocks.0.mixer.m.proj/Conv")
        assert [makers[name].op_type for name in proj.input] == ["DequantizeLinear"] * 3


def test_first_convolution_is_float_where_the_image_is(vit, tmp_path):
    whole = tmp_path / "whole.onnx"
    quantize_onnx(vit.fp32, whole, vit.images[:2], io="int8")
    for path, stays in ((vit.int8, True), (whole, False)):
        graph = onnx.load(path).graph
        makers = {name: node for node in graph.node for name in node.output}
        convs = [node for node in graph.node if node.name.startswith("patch_embed.conv")]
        convs = [node for node in convs if node.op_type == "Conv"]
        in_float = [makers.keys().isdisjoint(node.input) for node in convs]
        assert in_float == [stays, False, False, False]


def test_int8_file_stays_close_to_float(vit):
    images = np.concatenate(vit.images)
    expected, actual = vit.expected(images), run(vit.int8, images)
    # Two channels behind the first convolution are little for 8 bits; anything wrong is above 1.
    assert np.square(expected - actual).sum() < 0.1 * np.square(expected).sum()
