"""Mobile MQA's rewrites: exact for every layer, and what the runtimes make of them."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mnv4_deploy.exporters.recipes import recipe
from mnv4_deploy.exporters.rewrites.base import Rewrite, RewriteReport
from mnv4_deploy.exporters.rewrites.chains import CHAINS, rewrite
from mnv4_deploy.exporters.rewrites.mobile_mqa import (
    MqaForOnnx,
    MqaForTflite,
    mqa_for_onnx,
    mqa_for_tflite,
    pool_queries_by_convolution,
)
from mnv4_deploy.exporters.to_onnx.convert import export_onnx
from mnv4_deploy.exporters.to_tflite.convert import export_tflite
from mnv4_deploy.exporters.to_tflite.quantize import quantize_tflite
from mnv4_deploy.models.networks.mobile_mqa import (
    MobileMqaBlock,
    MultiQueryAttention,
    SameAvgPool2d,
)
from mnv4_deploy.models.records import OutputSpec
from mnv4_deploy.profiles.inspection.inspect import inspect_file
from tests.mqa_cases import CASES, CHANNELS, Case, attention, image, settle

FORMS = {"tflite": (mqa_for_tflite, MqaForTflite), "onnx": (mqa_for_onnx, MqaForOnnx)}
# Heads, widths, strides and sides all differ, and the query stride does not divide one side.
STRIDED = Case(3, 8, 16, 2, (3, 2), (14, 12))


class Net(nn.Module):
    """RGB in and 8 channels out, with a block between that no layer around it hides."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 1)
        self.block = MobileMqaBlock(CHANNELS, **options, layer_scale_init=1e-5)  # type: ignore[arg-type]
        self.last = nn.Conv2d(CHANNELS, 8, 1)
        settle(self)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.block(self.stem(x)))
        return y


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("format_", FORMS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_layer_alone_is_exact(case: Case, format_: str) -> None:
    apply, form = FORMS[format_]
    reference, x = nn.Sequential(attention(case)), image(case.size)
    changed = copy.deepcopy(reference)
    with torch.no_grad():
        assert apply(changed, x[:1]) == RewriteReport(apply.__name__, ("0",))
        assert isinstance(changed[0], form)
        assert relative_error(changed(x), reference(x)) < 1e-12


@pytest.mark.parametrize("format_", FORMS)
@pytest.mark.parametrize("case", [*CASES, STRIDED], ids=lambda case: case.id)
def test_whole_chain_is_exact_and_leaves_no_norm_and_no_pooling(case: Case, format_: str) -> None:
    net = Net(**case.options()).double()
    rewritten = rewrite(net, format_, case.size)
    assert len(rewritten.reports) == len(CHAINS[format_])
    x = image(case.size, channels=3)
    with torch.no_grad():
        assert relative_error(rewritten.module(x), net(x)) < 1e-12
    for layer in rewritten.module.modules():
        assert not isinstance(layer, nn.BatchNorm2d | SameAvgPool2d)


def convolutions(module: nn.Module) -> int:
    return sum(isinstance(layer, nn.Conv2d) for layer in module.modules())


@pytest.mark.parametrize(
    ("kv_stride", "query_stride", "expected"),
    [
        pytest.param(1, 1, {"tflite": 4, "onnx": 2}, id="q-k-and-v-are-one"),
        pytest.param(1, 2, {"tflite": 5, "onnx": 4}, id="k-and-v-are-one"),
        pytest.param(2, 1, {"tflite": 6, "onnx": 6}, id="none"),
    ],
)
def test_onnx_merges_what_reads_the_input(
    kv_stride: int, query_stride: int, expected: dict[str, int]
) -> None:
    net = Net(heads=2, key_dim=4, value_dim=6, kv_stride=kv_stride, query_stride=query_stride)
    around = convolutions(nn.ModuleList([net.stem, net.last]))
    for format_, count in expected.items():
        assert convolutions(rewrite(net, format_, (8, 8)).module) - around == count


class Shared(nn.Module):
    """One attention, twice; the second time on ``view`` of its input."""

    def __init__(self, view: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first = attention(STRIDED)
        self.second = self.first
        self.view = view

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.view(self.first(x)))
        return y


@pytest.mark.parametrize("apply", [form[0] for form in FORMS.values()])
@pytest.mark.parametrize(
    ("view", "refused"),
    [
        pytest.param(lambda x: x, (), id="same-size"),
        pytest.param(
            lambda x: x[..., ::2],
            (("first.query.down_pool", "it is called with 2 sizes"),),
            id="two-sizes",
        ),
    ],
)
def test_shared_attention_stays_exact(
    apply: Rewrite, view: Callable[[Tensor], Tensor], refused: tuple[tuple[str, str], ...]
) -> None:
    reference, x = Shared(view), image(STRIDED.size)
    changed = copy.deepcopy(reference)
    with torch.no_grad():
        assert pool_queries_by_convolution(changed, x[:1]).refused == refused
        assert apply(changed, x[:1]).changed == ("first", "second")
        assert changed.first is changed.second
        assert not isinstance(changed.first, MultiQueryAttention)
        assert relative_error(changed(x), reference(x)) < 1e-12


def test_nothing_to_do_is_not_an_error() -> None:
    net = nn.Conv2d(3, 4, 1)
    for apply in (pool_queries_by_convolution, mqa_for_tflite, mqa_for_onnx):
        assert apply(net, image((4, 4), channels=3)) == RewriteReport(apply.__name__)


def run_tflite(path: Path, x_BHWC: np.ndarray) -> np.ndarray:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x_BHWC)
    interpreter.invoke()
    return np.asarray(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))


def test_tflite_is_one_partition_in_float_and_int8(tmp_path: Path) -> None:
    net = Net(**STRIDED.options())
    fp32, int8 = tmp_path / "fp32.tflite", tmp_path / "int8.tflite"
    rewritten = rewrite(net, "tflite", STRIDED.size)
    outputs = (OutputSpec("logits", whole_range=True, is_map=True),)
    export_tflite(rewritten.module, fp32, input_shape=(1, *STRIDED.size), outputs=outputs)
    x = image(STRIDED.size, batch=8, channels=3).float()
    with torch.no_grad():
        expected = net(x).permute(0, 2, 3, 1).numpy()
    images = [i[None] for i in x.permute(0, 2, 3, 1).contiguous().numpy()]
    facts = inspect_file(fp32)
    assert facts.partitions == 1 and facts.not_delegated == ()
    assert facts.histogram["RESIZE_BILINEAR"] == 1 and facts.histogram["DEPTHWISE_CONV_2D"] == 3
    assert "TRANSPOSE" not in facts.histogram
    actual = np.concatenate([run_tflite(fp32, i) for i in images])
    assert np.abs(actual - expected).max() < 1e-5 * np.abs(expected).max()
    quantize_tflite(fp32, int8, images, recipe=recipe("xnnpack"))
    facts = inspect_file(int8)
    assert facts.partitions == 1 and facts.not_delegated == ()
    # Only the softmax is in float, between the two.
    assert facts.histogram["DEQUANTIZE"] == facts.histogram["QUANTIZE"] == 1


def test_onnx_equals_pytorch_at_any_batch(tmp_path: Path) -> None:
    import onnxruntime as ort

    net = Net(**STRIDED.options())
    path = tmp_path / "fp32.onnx"
    rewritten = rewrite(net, "onnx", STRIDED.size)
    export_onnx(rewritten.module, path, input_shape=(1, *STRIDED.size), dynamic_batch=True)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        x = image(STRIDED.size, batch=batch, channels=3).float()
        with torch.no_grad():
            expected = net(x)
        actual = torch.from_numpy(session.run(None, {"input": x.numpy()})[0])
        assert relative_error(actual, expected) < 1e-5
