"""Layers that are chosen to stay in float or to become int16x8, as the runtimes see them."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.exporters.recipes import recipe
from mnv4_deploy.exporters.to_onnx.convert import export_onnx
from mnv4_deploy.exporters.to_onnx.quantize import observe_onnx, quantize_onnx
from mnv4_deploy.exporters.to_tflite import io_types as tflite_io
from mnv4_deploy.exporters.to_tflite.flatbuffer import TfliteFile
from mnv4_deploy.exporters.to_tflite.quantize import quantize_tflite
from mnv4_deploy.profiles.graph.read import read_graph_of
from mnv4_deploy.profiles.inspection.inspect import inspect_file

SIZE = (16, 16)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.act = nn.ReLU()
        self.point = nn.Conv2d(8, 8, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.act(self.stem(x))
        return self.fc(self.pool(x + self.point(x)).flatten(1))


def images(count):
    return np.random.default_rng(0).normal(size=(count, 3, *SIZE)).astype(np.float32)


@pytest.fixture(scope="module")
def fp32(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("mixed") / "fp32.onnx"
    export_onnx(Net().eval(), path, input_shape=(1, *SIZE))
    return path


def run_onnx(path, x):
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"input": image[None]})[0] for image in x])


def noise(path, fp32):
    x = images(16)
    expected = run_onnx(fp32, x)
    return np.square(run_onnx(path, x) - expected).sum() / np.square(expected).sum()


def float_weights(path):
    """The weighted nodes whose weights are float in the file."""
    graph = onnx.load(path).graph
    constants = {t.name for t in graph.initializer}
    weighted = [n for n in graph.node if n.op_type in ("Conv", "Gemm")]
    return {n.name.split("/")[0] for n in weighted if n.input[1] in constants}


@pytest.mark.parametrize("layers", [["stem"], ["point"], ["fc"], ["stem", "fc"]])
def test_onnx_float_layers(fp32, tmp_path, layers):
    path = tmp_path / "int8.onnx"
    report = quantize_onnx(fp32, path, [images(8)], float_layers=layers)
    # The convolution that reads the image is in float anyway.
    assert float_weights(path) == {*layers, "stem"}
    graph = onnx.load(path).graph
    (first,) = {n.op_type for n in graph.node if "input" in n.input}
    last = graph.output[0].name
    # No pair where only float operators are: at a float input, at a float output.
    assert first == "Conv"
    (maker,) = [n for n in graph.node if last in n.output]
    assert maker.op_type == "Gemm"
    chosen = [name for name, _, reason in report.float_ops if "chosen" in reason]
    assert {name.split("/")[0] for name in chosen} == set(layers)
    assert noise(path, fp32) < 0.01
    # onnxruntime left them in float, and runs the others in int8.
    kinds = optimised_kinds(path, tmp_path / "optimised.onnx")
    convolutions = len({"stem", "point"} & {*layers, "stem"})
    assert sum(kind in ("Conv", "FusedConv") for kind in kinds) == convolutions
    assert kinds.count("QLinearConv") == 2 - convolutions
    assert sum(kind in ("Gemm", "FusedGemm") for kind in kinds) == layers.count("fc")


def optimised_kinds(path, target):
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(target)
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(target).graph.node]


def test_onnx_with_every_layer_in_float_is_the_float_file(fp32, tmp_path):
    quantize_onnx(
        fp32,
        tmp_path / "all.onnx",
        [images(8)],
        float_layers=["stem", "act", "point", "pool", "fc", *modules_left(fp32)],
    )
    kinds = {n.op_type for n in onnx.load(tmp_path / "all.onnx").graph.node}
    assert noise(tmp_path / "all.onnx", fp32) < (1e-12 if "QuantizeLinear" not in kinds else 1e-3)


def modules_left(path):
    from mnv4_deploy.profiles.join.modules import module_of_ops

    return sorted(set(filter(None, module_of_ops(read_graph_of(path)))))


@pytest.mark.parametrize(("io", "kind"), [("uint8", np.uint8), ("int8", np.int8)])
def test_onnx_integer_edges_at_float_layers(fp32, tmp_path, io, kind):
    path = tmp_path / "io.onnx"
    quantize_onnx(fp32, path, [images(8)], io=io, float_layers=["stem", "fc"], method="minmax")
    facts = {e.key: float(e.value) for e in onnx.load(path).metadata_props if "." in e.key}
    limits = np.iinfo(kind)
    x = images(4)
    codes = np.round(x / facts["input.scale"]) + facts["input.zero_point"]
    y = run_onnx(path, np.clip(codes, limits.min, limits.max).astype(kind))
    assert y.dtype == kind
    real = (y.astype(np.float32) - facts["logits.zero_point"]) * facts["logits.scale"]
    expected = run_onnx(fp32, x)
    assert np.square(real - expected).sum() < 0.01 * np.square(expected).sum()


def test_onnx_unknown_layer_names_the_nearest(fp32, tmp_path):
    with pytest.raises(UnsupportedError, match="no layer 'pont': the nearest one is 'point'"):
        quantize_onnx(fp32, tmp_path / "x.onnx", [images(1)], float_layers=["pont"])
    assert not (tmp_path / "x.onnx").exists()


def test_onnx_the_same_twice(fp32, tmp_path):
    for name in ("a", "b"):
        quantize_onnx(fp32, tmp_path / name, [images(4)], float_layers=["point", "stem"])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_onnx_ranges_that_were_observed_before_make_the_same_file(fp32, tmp_path):
    kept = observe_onnx(fp32, [images(4)])
    quantize_onnx(fp32, tmp_path / "a", [images(4)], float_layers=["point"])
    quantize_onnx(fp32, tmp_path / "b", (), float_layers=["point"], ranges=kept)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def run_tflite(path, image):
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


def quantized(hybrid, path, **layers):
    quantize_tflite(hybrid.path, path, hybrid.images, recipe=recipe("xnnpack"), **layers)
    return path


def tflite_noise(path, hybrid):
    pairs = [(run_tflite(path, i), run_tflite(hybrid.path, i)) for i in hybrid.images]
    wrong = sum(np.square(a - b).sum() for a, b in pairs)
    return wrong / sum(np.square(b).sum() for _, b in pairs)


ATTENTION = "blocks.2.4.attn"


def test_tflite_float_layers_stay_in_one_partition(hybrid, tmp_path):
    layers = ["conv_stem", ATTENTION, "classifier"]
    path = quantized(hybrid, tmp_path / "f", float_layers=layers)
    facts = inspect_file(path)
    assert facts.partitions == 1 and facts.not_delegated == ()
    assert [t.dtype for t in (*facts.inputs, *facts.outputs)] == ["int8", "int8"]
    # Products of the attention, softmax and all, but not its projections.
    assert {o.kind for o in facts.operators if o.compute == "float32"} >= {
        *("CONV_2D", "BATCH_MATMUL", "SOFTMAX", "FULLY_CONNECTED")
    }
    products = [o.compute for o in facts.operators if o.kind == "BATCH_MATMUL"]
    assert sorted(products) == ["float32"] * 2 + ["int8"] * 14
    assert tflite_noise(path, hybrid) < 0.05


def test_tflite_float_output_of_a_float_layer_is_not_rounded(hybrid, tmp_path):
    path = quantized(hybrid, tmp_path / "f", float_layers=["classifier"])
    file = TfliteFile(path)
    tflite_io.set_input(file, "float", "xnnpack")
    tflite_io.set_outputs(file, "float", "xnnpack")
    file.write(path)
    facts = inspect_file(path)
    assert [(t.name, t.dtype) for t in facts.outputs] == [("logits", "float32")]
    assert facts.operators[-1].kind == "FULLY_CONNECTED"
    assert facts.partitions == 1
    assert tflite_noise(path, hybrid) < 0.05


def test_tflite_int16_layers_leave_the_delegate(hybrid, tmp_path):
    path = quantized(hybrid, tmp_path / "i", int16_layers=[ATTENTION, "conv_stem", "classifier"])
    facts = inspect_file(path)
    assert facts.partitions == 2
    left = [o.kind for o in facts.not_delegated]
    assert left.count("BATCH_MATMUL") == 2 and left.count("SOFTMAX") == 1
    assert left.count("CONV_2D") == left.count("FULLY_CONNECTED") == 1
    assert [t.dtype for t in (*facts.inputs, *facts.outputs)] == ["int8", "int8"]
    assert tflite_noise(path, hybrid) < 0.05


def test_tflite_refusals(hybrid, tmp_path):
    path = tmp_path / "x"
    with pytest.raises(UnsupportedError, match=r"the nearest one is 'blocks\.2\.4\.attn'"):
        quantized(hybrid, path, int16_layers=["blocks.2.4.atn"])
    with pytest.raises(UnsupportedError, match="cannot be float and int16"):
        quantized(hybrid, path, int16_layers=[ATTENTION], float_layers=[ATTENTION])
    with pytest.raises(UnsupportedError, match="integer-only has no float layer"):
        quantize_tflite(
            hybrid.path,
            path,
            hybrid.images,
            recipe=recipe("integer-only"),
            float_layers=[ATTENTION],
        )
    assert not path.exists()


def test_logits_are_never_clipped_on_calibration_images(hybrid, fp32, tmp_path):
    """Whatever the method: clipped logits are equal, and the best class is lost."""
    path = quantized(hybrid, tmp_path / "q", method="average")
    file = TfliteFile(path)
    scale, zero_point = file.quantization(int(file.graph.outputs[0]))
    highest = max(float(run_tflite(hybrid.path, image).max()) for image in hybrid.images)
    assert (127 - zero_point) * scale >= highest - scale
    x = images(8)
    quantize_onnx(fp32, tmp_path / "io.onnx", [x], io="uint8", method="average")
    facts = {e.key: float(e.value) for e in onnx.load(tmp_path / "io.onnx").metadata_props}
    top_code = 255 - facts["logits.zero_point"]
    assert top_code * facts["logits.scale"] >= run_onnx(fp32, x).max() - facts["logits.scale"]
