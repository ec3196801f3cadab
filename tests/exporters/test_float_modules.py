"""Modules that rewrites keep in float: one island each in int8 files, and none without float."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from mnv4_deploy.errors import ToolchainError
from mnv4_deploy.exporters.recipes import recipe
from mnv4_deploy.exporters.records import ExportRequest, Int8Choice
from mnv4_deploy.exporters.recovery.chosen_operators import operators_inside
from mnv4_deploy.exporters.rewrites import chains
from mnv4_deploy.exporters.rewrites.base import RewriteReport
from mnv4_deploy.exporters.rewrites.chains import rewrite
from mnv4_deploy.exporters.to_onnx import write as onnx_files
from mnv4_deploy.exporters.to_onnx.convert import export_onnx
from mnv4_deploy.exporters.to_onnx.quantize import quantize_onnx
from mnv4_deploy.exporters.to_tflite import write as tflite_files
from mnv4_deploy.exporters.to_tflite.convert import export_tflite
from mnv4_deploy.exporters.to_tflite.flatbuffer import TfliteFile
from mnv4_deploy.exporters.to_tflite.quantize import quantize_tflite
from mnv4_deploy.models.networks.efficientvit import EfficientVit
from mnv4_deploy.models.networks.efficientvit_variants import Variant
from mnv4_deploy.models.randomize import randomize
from mnv4_deploy.pipelines import export as pipeline
from mnv4_deploy.profiles.inspection.inspect import inspect_file
from tests.tiny_network import CONV_TINY, put_into_zoo

# The first stage has 3x8 positions in two windows. The second has one of 2x4, too low for the
# outer rows of its 7x7 convolution.
SIZE = (48, 128)
HEADS = (2, 1)
REPORT = RewriteReport("some", float_modules=("stages.0.blocks.0.mixer.m", "head"))
SMALL = Variant("small", "", (16, 24), (1, 1), HEADS, (7, 5), 0.0)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Files:
    module: nn.Module
    fp32: Path
    int8: Path
    integer_only: Path
    float_modules: tuple[str, ...]
    images: list[np.ndarray]


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit")
    module = EfficientVit(SMALL, num_classes=5)
    randomize(module, 0)
    rewritten = rewrite(module.double(), "tflite", SIZE)
    files = Files(
        module.float(),
        folder / "fp32.tflite",
        folder / "int8.tflite",
        folder / "integer-only.tflite",
        rewritten.float_modules,
        list(np.random.default_rng(0).normal(size=(8, 1, *SIZE, 3)).astype(np.float32)),
    )
    export_tflite(rewritten.module.float(), files.fp32, input_shape=(1, *SIZE))
    for target, path in (("xnnpack", files.int8), ("integer-only", files.integer_only)):
        quantize_tflite(
            files.fp32,
            path,
            files.images,
            recipe=recipe(target),
            float_modules=files.float_modules,
        )
    return files


def run(path, image):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    (source,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    scale, zero_point = source["quantization"]
    if source["dtype"] == np.int8:
        image = np.clip(np.round(image / scale) + zero_point, -128, 127).astype(np.int8)
    interpreter.set_tensor(source["index"], image)
    interpreter.invoke()
    output = interpreter.get_tensor(result["index"])
    scale, zero_point = result["quantization"]
    return output if output.dtype == np.float32 else (output - float(zero_point)) * scale


def test_float_file_is_one_partition_and_equals_pytorch(vit):
    facts = inspect_file(vit.fp32)
    assert facts.partitions == 1 and facts.not_delegated == ()
    for image in vit.images[:2]:
        with torch.no_grad():
            expected = vit.module(torch.from_numpy(image).permute(0, 3, 1, 2)).numpy()
        assert np.abs(run(vit.fp32, image) - expected).max() < 1e-4 * np.abs(expected).max()


def test_attention_moves_nothing_that_it_need_not(vit):
    histogram = inspect_file(vit.fp32).histogram
    assert histogram["SOFTMAX"] == sum(HEADS)
    assert histogram["BATCH_MATMUL"] == 2 * sum(HEADS)
    # Into windows and out of them again, in the one stage that has several.
    assert histogram.get("TRANSPOSE", 0) == 2
    assert histogram.keys().isdisjoint({"GATHER", "GATHER_ND", "BROADCAST_TO"})


def test_int8_file_has_one_float_island_an_attention(vit):
    facts = inspect_file(vit.int8)
    assert facts.partitions == 1 and facts.not_delegated == ()
    assert [t.dtype for t in (*facts.inputs, *facts.outputs)] == ["int8", "int8"]
    assert facts.histogram["DEQUANTIZE"] == facts.histogram["QUANTIZE"] == len(HEADS)
    compute: dict[str, Counter[str]] = {kind: Counter() for kind in facts.histogram}
    for operator in facts.operators:
        compute[operator.kind][operator.compute] += 1
    assert compute["SOFTMAX"] == {"float32": sum(HEADS)}
    assert compute["BATCH_MATMUL"] == {"float32": 2 * sum(HEADS)}
    # Queries, keys and values of each head; its projection and all else are in int8.
    assert compute["CONV_2D"]["float32"] == 3 * sum(HEADS)
    assert compute["CONV_2D"]["int8"] >= 20


def test_int8_file_stays_close_to_float(vit):
    expected, actual = (
        np.concatenate([run(path, image) for image in vit.images]) for path in (vit.fp32, vit.int8)
    )
    # Two channels behind the first convolution are little for 8 bits; anything wrong is above 1.
    assert np.square(expected - actual).sum() < 0.25 * np.square(expected).sum()


def test_integer_only_has_no_float_operator_all_the_same(vit):
    facts = inspect_file(vit.integer_only)
    # A QUANTIZE from one scale to another is all that there is besides.
    assert set(facts.compute_histogram) <= {"int8", "int8->int8"}
    file = TfliteFile(vit.integer_only)
    types = {file.schema.TensorType.INT8, file.schema.TensorType.INT32}
    assert {tensor.type for tensor in file.graph.tensors} <= types
    assert np.isfinite(run(vit.integer_only, vit.images[0])).all()


def test_without_float_modules_all_but_softmax_and_relu_is_int8(vit, tmp_path):
    """So it is the modules that make the islands, not the recipe."""
    path = tmp_path / "plain.tflite"
    quantize_tflite(vit.fp32, path, vit.images[:2], recipe=recipe("xnnpack"))
    facts = inspect_file(path)
    assert facts.histogram["DEQUANTIZE"] > 2 * len(HEADS)
    products = {o.compute for o in facts.operators if o.kind == "BATCH_MATMUL"}
    assert products == {"int8"}


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(8, 8, 1)
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())

    def forward(self, x):
        return self.deep(self.first(x)) + x


class Nested(nn.Module):
    """``inner`` is kept in float; ``inner2`` only begins with its name."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.inner = Inner()
        self.inner2 = Inner()
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.inner2(self.inner(self.stem(x))).mean((2, 3)))


@pytest.fixture(scope="module")
def nested(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nested")
    torch.manual_seed(0)
    module = Nested().eval()
    export_onnx(module, folder / "fp32.onnx", input_shape=(1, 16, 16))
    export_tflite(module, folder / "fp32.tflite", input_shape=(1, 16, 16))
    return folder


def images(*shape):
    return [np.random.default_rng(0).normal(size=shape).astype(np.float32) for _ in range(4)]


@pytest.mark.parametrize("format_", ["onnx", "tflite"])
def test_operators_of_a_module_and_of_all_inside(nested, format_):
    path = nested / f"fp32.{format_}"
    assert operators_inside(path, ()) == ()
    # A converter may have folded all of a module away.
    assert operators_inside(path, ["gone", "inner.firs"]) == ()

    def convolutions(*modules):
        kinds = Counter(o.kind.upper() for o in operators_inside(path, modules))
        return kinds["CONV"] + kinds["CONV_2D"]

    assert convolutions("inner") == 2
    assert convolutions("inner.deep") == convolutions("inner2.first") == 1
    assert convolutions("inner2", "inner", "inner.deep") == 4
    assert convolutions("inner", "stem") == 3


def test_onnx_nodes_of_float_modules_stay_float(nested, tmp_path):
    path = tmp_path / "int8.onnx"
    fp32 = nested / "fp32.onnx"
    report = quantize_onnx(fp32, path, images(4, 3, 16, 16), float_modules=["inner"])
    graph = onnx.load(path).graph
    constants = {t.name for t in graph.initializer}
    weighted = [n for n in graph.node if n.op_type == "Conv"]
    assert len(weighted) == 5
    floats = [n.name for n in weighted if n.input[1] in constants]
    # The first one reads the image, and is in float anyway.
    assert floats[0] == weighted[0].name and len(floats) == 3
    assert all(name.startswith("inner.") for name in floats[1:])
    inside = {o.name for o in operators_inside(fp32, ["inner"])}
    assert inside <= {name for name, _, _ in report.float_ops}
    # Its input is dequantized (and shielded from fusion), its result quantized; nothing between.
    made_by = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        sources = [made_by[name] for name in node.input if name in made_by]
        if node.name in inside:
            kinds = {source.op_type for source in sources if source.name not in inside}
            # The first convolution hands over floats.
            assert kinds <= {"DequantizeLinear", "Mul", "Conv"}
    readers = [n for n in graph.node if n.op_type == "QuantizeLinear"]
    assert [n.name for n in readers if made_by.get(n.input[0], n).name in inside] == [
        "inner/Add_QuantizeLinear"
    ]


def test_tflite_operators_of_float_modules_stay_float(nested, tmp_path):
    for target, floats in (("xnnpack", 2), ("integer-only", 0)):
        path = tmp_path / target
        quantize_tflite(
            nested / "fp32.tflite",
            path,
            images(1, 16, 16, 3),
            recipe=recipe(target),
            float_modules=["inner", "gone"],
        )
        facts = inspect_file(path)
        found = Counter(o.compute for o in facts.operators if o.kind == "CONV_2D")
        assert found == Counter({"float32": floats, "int8": 5 - floats})
        assert facts.histogram.get("DEQUANTIZE", 0) == floats // 2


class _EnoughError(Exception):
    """Raised where an export has shown what is asked of it."""


@pytest.mark.parametrize(
    ("format_", "maker", "quantizer"),
    [
        ("tflite", tflite_files, "quantize_tflite"),
        ("onnx", onnx_files, "quantize.quantize_onnx"),
    ],
)
def test_the_pipeline_hands_float_modules_on(tmp_path, monkeypatch, format_, maker, quantizer):
    """From the rewrites to the quantizer; no file is made."""
    put_into_zoo(CONV_TINY, monkeypatch)
    rewritten, kept = [], []

    def recorded(*arguments):
        rewritten.append(replace(rewrite(*arguments), reports=(REPORT,)))
        return rewritten[-1]

    def record(*_, float_modules, **__):
        kept.append(float_modules)
        raise _EnoughError

    def convert(module, job, source):
        assert module is rewritten[-1].module
        maker.write_int8(source, tmp_path / "int8", job, Int8Choice())

    monkeypatch.setattr(chains, "rewrite", recorded)
    monkeypatch.setattr(f"{maker.__name__}.{quantizer}", record)
    monkeypatch.setattr(maker, "convert", convert)
    request = ExportRequest(
        model=CONV_TINY.name,
        out=tmp_path / "out",
        weights="random",
        formats=(format_,),
        size=(32, 32),
        int8=True,
        calibration="random",
        calibration_images=16,
        evaluation_images=16,
    )
    with pytest.raises((_EnoughError, ToolchainError)):
        pipeline.export(request)
    assert kept == [REPORT.float_modules]
