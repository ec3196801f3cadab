import copy
from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.exporters.audit import check
from mnv4_deploy.exporters.rewrites.fold_batch_norm import fold_batch_norm
from mnv4_deploy.exporters.rewrites.fold_layer_scale import fold_layer_scale
from mnv4_deploy.exporters.rewrites.fold_pre_norm import fold_pre_norm
from mnv4_deploy.exporters.rewrites.mobile_mqa import mqa_for_onnx
from mnv4_deploy.exporters.to_onnx.convert import cast_onnx_to_fp16, export_onnx
from mnv4_deploy.exporters.to_onnx.quantize import quantize_onnx
from mnv4_deploy.models.networks.mobilenetv4 import MobileNetV4
from mnv4_deploy.models.randomize import randomize
from tests.tiny_network import TINY

SIZE = (64, 96)
ATTENTIONS = 2  # of TINY: one at stride 2, one at stride 1
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _rewritten(module):
    rewritten = copy.deepcopy(module)
    with torch.no_grad():
        for rewrite in (fold_batch_norm, fold_layer_scale, fold_pre_norm, mqa_for_onnx):
            rewrite(rewritten, torch.zeros(1, 3, *SIZE))
    return rewritten


def _run(path, x):
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def _images(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 3, *SIZE)).astype(np.float32)


def _relative(a, b):
    return float(np.abs(a - b).max() / np.abs(b).max())


@pytest.fixture(scope="module")
def reference():
    module = MobileNetV4(TINY, num_classes=10).eval()
    randomize(module, 0, size=SIZE)
    return module


@pytest.fixture(scope="module")
def fp32(reference, shared):
    def convert(folder):
        export_onnx(
            _rewritten(reference),
            folder / "fp32.onnx",
            input_shape=(1, *SIZE),
            dynamic_batch=True,
            metadata={"labels": "a,b"},
        )

    return shared.folder("tiny-onnx", convert) / "fp32.onnx"


@pytest.fixture(scope="module")
def int8(fp32, shared):
    folder, report = shared.folder_and_value(
        "tiny-onnx-int8",
        lambda made: quantize_onnx(fp32, made / "int8.onnx", [_images(4)]),
    )
    return folder / "int8.onnx", report


@pytest.mark.parametrize("batch", [1, 3])
def test_fp32_equals_the_reference_at_any_batch(reference, fp32, batch):
    x = _images(batch)
    with torch.no_grad():
        expected = reference(torch.from_numpy(x)).numpy()
    assert _relative(_run(fp32, x), expected) < 1e-4


def test_fp32_graph(fp32):
    model = onnx.load(fp32)
    kinds = Counter(node.op_type for node in model.graph.node)
    assert not kinds.keys() & {"BatchNormalization", "ReduceMean", "Einsum", "Expand"}
    # 2 of each product; per attention 2 permutes at stride 1 or 4 at stride 2, and K's.
    assert kinds["MatMul"] == 2 * ATTENTIONS
    assert kinds["Transpose"] <= 3 + 5
    assert {entry.key: entry.value for entry in model.metadata_props} == {"labels": "a,b"}
    assert any(node.name.startswith("blocks.1.1.attn") for node in model.graph.node)
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)


def test_int8_runs_in_int8_with_no_island_but_softmax(int8, tmp_path):
    path, report = int8
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    kinds = Counter(n.op_type for n in onnx.load(options.optimized_model_filepath).graph.node)
    # What onnxruntime really runs: of float convolutions, additions and activations only the
    # convolution that reads the image.
    assert not kinds.keys() & {"Add", "Relu", "QLinearSoftmax"}
    assert kinds["Conv"] + kinds["FusedConv"] == 1
    assert kinds["QLinearConv"] == report.int8_ops["Conv"]
    # One conversion behind it, and per attention V in and the mixed values out.
    assert kinds["MatMulIntegerToFloat"] == kinds["Softmax"] == kinds["MatMul"] == ATTENTIONS
    assert kinds["QuantizeLinear"] == 1 + ATTENTIONS
    assert kinds["DequantizeLinear"] <= 1 + ATTENTIONS
    float_kinds = {kind for _, kind, _ in report.float_ops}
    assert float_kinds == {"Conv", "Relu", "Softmax", "MatMul", "Reshape", "Transpose"}
    assert check(path).overflowing_biases == ()
    assert {e.key for e in onnx.load(path).metadata_props} == {"labels"}


def test_int8_is_close_to_fp32(fp32, int8):
    x = _images(4)
    expected, got = _run(fp32, x), _run(int8[0], x)
    assert np.square(got - expected).sum() < 0.1 * np.square(expected).sum()


def test_integer_inputs_and_outputs(fp32, tmp_path):
    found = []
    for io, kind in (("uint8", np.uint8), ("int8", np.int8)):
        path = tmp_path / f"{io}.onnx"
        quantize_onnx(fp32, path, [_images(4)], io=io)
        facts = {e.key: float(e.value) for e in onnx.load(path).metadata_props if "." in e.key}
        x, limits = _images(4), np.iinfo(kind)
        quantized = np.round(x / facts["input.scale"]) + facts["input.zero_point"]
        y = _run(path, np.clip(quantized, limits.min, limits.max).astype(kind))
        assert y.dtype == kind
        found.append((y.astype(np.float32) - facts["logits.zero_point"]) * facts["logits.scale"])
    # The same network behind two encodings of the same pixels.
    assert np.abs(found[0] - found[1]).max() <= 1.01 * facts["logits.scale"]
    expected = np.clip(_run(fp32, x), found[0].min(), found[0].max())
    assert np.square(found[0] - expected).sum() < 0.15 * np.square(expected).sum()


def test_baked_preprocessing_equals_the_same_outside(reference, tmp_path):
    path = tmp_path / "baked.onnx"
    export_onnx(_rewritten(reference), path, input_shape=(1, *SIZE), bake_preprocess=(MEAN, STD))
    pixels = np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3), dtype=np.uint8)
    x = (pixels / 255 - np.array(MEAN)) / np.array(STD)
    with torch.no_grad():
        x_BCHW = torch.from_numpy(x.transpose(0, 3, 1, 2).astype(np.float32))
        expected = reference(x_BCHW).numpy()
    assert _relative(_run(path, pixels), expected) < 1e-4
    quantize_onnx(path, tmp_path / "int8.onnx", [pixels])
    assert _relative(_run(tmp_path / "int8.onnx", pixels), expected) < 0.5


def test_fp16_halves_the_weights(fp32, tmp_path):
    path = tmp_path / "fp16.onnx"
    cast_onnx_to_fp16(fp32, path)
    before, after = (
        sum(len(tensor.raw_data) for tensor in onnx.load(p).graph.initializer)
        for p in (fp32, path)
    )
    assert after < 0.6 * before  # small tensors stay
    # But for a node each that casts them back.
    casts = sum(node.op_type == "Cast" for node in onnx.load(path).graph.node)
    saved = fp32.stat().st_size - path.stat().st_size
    assert before - after - 150 * casts < saved <= before - after
    assert _relative(_run(path, _images(1)), _run(fp32, _images(1))) < 0.02


def test_refusals_leave_nothing_behind(fp32, int8, tmp_path):
    path = tmp_path / "none.onnx"
    with pytest.raises(UnsupportedError, match="there were none"):
        quantize_onnx(fp32, path, [])
    with pytest.raises(UnsupportedError, match="quantized already"):
        quantize_onnx(int8[0], path, [_images(1)])
    with pytest.raises(UnsupportedError, match="calibration method"):
        quantize_onnx(fp32, path, [_images(1)], method="best")
    assert not path.exists()
