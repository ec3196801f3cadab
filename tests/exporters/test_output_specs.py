"""What an output is decides its range and its order of axes, its rank does not."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from mnv4_deploy.exporters.recipes import recipe
from mnv4_deploy.exporters.to_onnx.convert import export_onnx
from mnv4_deploy.exporters.to_onnx.quantize import quantize_onnx
from mnv4_deploy.exporters.to_tflite.convert import export_tflite
from mnv4_deploy.exporters.to_tflite.flatbuffer import TfliteFile
from mnv4_deploy.exporters.to_tflite.quantize import quantize_tflite
from mnv4_deploy.models.records import OutputSpec

FORMATS = ("onnx", "tflite")
BATCH, SIZE = 2, (9, 13)
OUTPUTS = (
    OutputSpec("scores", whole_range=True),  # [2, 47, 6]
    OutputSpec("embedding"),  # [2, 5]
    OutputSpec("map", is_map=True),  # [2, 4, 5, 7]
    OutputSpec("grid"),  # [2, 3, 5, 7]
)
WHOLE = [output.name for output in OUTPUTS if output.whole_range]


class Net(nn.Module):
    """The scores are joined of two levels and moved, as a detector's are."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False)
        self.coarse = nn.Conv2d(3, 6, 3, stride=4, padding=1, bias=False)
        self.embed = nn.Linear(6 * 3 * 4, 5, bias=False)
        self.map = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False)
        self.grid = nn.Conv2d(3, 3, 3, stride=2, padding=1, bias=False)

    def forward(self, x):
        fine, coarse = self.fine(x), self.coarse(x)
        scores = torch.cat([fine.flatten(2), coarse.flatten(2)], 2).transpose(1, 2)
        return scores, self.embed(coarse.flatten(1)), self.map(x), self.grid(x)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def images():
    """Batches ``[B, 3, H, W]`` of -1, 0 and 1; only the last one has no 0.

    The input's range is that of each, so that only the outputs' own ranges can clip them.
    """
    generator = np.random.default_rng(0)
    shape = (BATCH, 3, *SIZE)
    signs = [generator.choice(np.float32([-1, 1]), shape) for _ in range(4)]
    lit = [generator.random(shape) < share for share in (0.02, 0.02, 0.02, 1)]
    return [s * on for s, on in zip(signs, lit, strict=True)]


@pytest.fixture(scope="module")
def float_files(net, shared):
    def convert(folder):
        shape = (BATCH, *SIZE)
        export_onnx(net, folder / "fp32.onnx", input_shape=shape, outputs=OUTPUTS)
        export_tflite(net, folder / "fp32.tflite", input_shape=shape, outputs=OUTPUTS)

    folder = shared.folder("output-specs", convert)
    return {format_: folder / f"fp32.{format_}" for format_ in FORMATS}


def run(path, x):
    """Outputs of a file by name, for what its input takes, channels first."""
    if path.suffix == ".onnx":
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, {"input": x}), strict=True))
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(path)).get_signature_runner()
    return runner(input=np.ascontiguousarray(x.transpose(0, 2, 3, 1)))


def quantize(fp32, path, images):
    """Write the int8 file with averaged ranges."""
    if path.suffix == ".onnx":
        quantize_onnx(fp32, path, images, method="average", io="int8", whole_range=WHOLE)
        return
    batches = [image.transpose(0, 2, 3, 1) for image in images]
    xnnpack = recipe("xnnpack")
    quantize_tflite(fp32, path, batches, recipe=xnnpack, method="average", whole_range=WHOLE)


@pytest.fixture(scope="module")
def int8_files(float_files, images, shared):
    def make(folder):
        for format_, fp32 in float_files.items():
            quantize(fp32, folder / f"int8.{format_}", images)

    folder = shared.folder("output-specs-int8", make)
    return {format_: folder / f"int8.{format_}" for format_ in FORMATS}


def scales(path):
    """Scale and zero point of the int8 input and outputs, by name."""
    if path.suffix == ".tflite":
        file = TfliteFile(path)
        edges = (*file.graph.inputs, *file.graph.outputs)
        return {file.name(int(t)): file.quantization(int(t)) for t in edges}
    graph = onnx.load(path).graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    found = {}
    for node in graph.node:
        for name in {"input", *(v.name for v in graph.output)} & {*node.input, *node.output}:
            found[name] = tuple(float(constants[i]) for i in node.input[1:])
    return found


@pytest.mark.parametrize("format_", FORMATS)
def test_int8_ranges_are_by_what_an_output_is(format_, float_files, int8_files, images):
    seen = [run(float_files[format_], image) for image in images]
    found = scales(int8_files[format_])
    for output in OUTPUTS:
        values = [outputs[output.name] for outputs in seen]
        lows, highs = [v.min() for v in values], [v.max() for v in values]
        whole, mean = (min(lows), max(highs)), (np.mean(lows), np.mean(highs))
        assert mean[1] - mean[0] < 0.7 * (whole[1] - whole[0])  # else this would tell nothing
        low, high = whole if output.whole_range else mean
        scale, zero_point = found[output.name]
        assert 255 * scale == pytest.approx(high - low, rel=1e-4), output.name
        assert zero_point == pytest.approx(-128 - low / scale, abs=0.51), output.name


@pytest.mark.parametrize("format_", FORMATS)
def test_nothing_clips_a_whole_range_on_the_way(format_, float_files, int8_files, images):
    found = scales(int8_files[format_])
    scale, zero_point = found["input"]
    codes = np.round(images[-1] / scale + zero_point).clip(-128, 127).astype(np.int8)
    scale, zero_point = found["scores"]
    got = (run(int8_files[format_], codes)["scores"].astype(np.float32) - zero_point) * scale
    expected = run(float_files[format_], images[-1])["scores"]
    cells = 5 * 7  # of the fine level, which come first
    for level in (np.s_[:, :cells], np.s_[:, cells:]):
        assert got[level].min() == pytest.approx(expected[level].min(), rel=0.05)
        assert got[level].max() == pytest.approx(expected[level].max(), rel=0.05)


def test_tflite_has_maps_channels_last_and_the_rest_as_pytorch(net, float_files, images):
    got = run(float_files["tflite"], images[-1])
    with torch.no_grad():
        scores, embedding, map_, grid = (t.numpy() for t in net(torch.from_numpy(images[-1])))
    expected = {
        "scores": scores,
        "embedding": embedding,
        "map": map_.transpose(0, 2, 3, 1),
        "grid": grid,
    }
    assert got.keys() == expected.keys()
    assert got["map"].shape == (2, 5, 7, 4) and got["grid"].shape == (2, 3, 5, 7)
    for name, values in expected.items():
        np.testing.assert_allclose(got[name], values, rtol=1e-4, atol=1e-5)
