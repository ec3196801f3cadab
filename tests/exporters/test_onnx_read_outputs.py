"""int8 ONNX files of networks in which an operator reads an output of the file."""

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn

from mnv4_deploy.exporters.to_onnx.convert import export_onnx
from mnv4_deploy.exporters.to_onnx.quantize import quantize_onnx
from mnv4_deploy.models.records import LOGITS, OutputSpec

SIZE = (16, 16)
OUTPUTS = (LOGITS, OutputSpec("features"), OutputSpec("odds", whole_range=True))


class Net(nn.Module):
    """``odds`` are made of ``logits``, and those of ``features``."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.point = nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        features = self.point(self.stem(x).relu()).mean(dim=(2, 3))
        logits = self.fc(features)
        return logits, features, logits.exp()


@pytest.fixture(scope="module")
def fp32(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("read") / "fp32.onnx"
    export_onnx(Net().eval(), path, input_shape=(1, *SIZE), outputs=OUTPUTS)
    return path


def images(count):
    return np.random.default_rng(0).normal(size=(count, 3, *SIZE)).astype(np.float32)


def run(path, x):
    """The outputs by name for a file of any input type, and what its metadata says."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    if "input.scale" in facts:
        dtype = np.uint8 if "uint8" in session.get_inputs()[0].type else np.int8
        limits = np.iinfo(dtype)
        codes = np.round(x / float(facts["input.scale"])) + int(facts["input.zero_point"])
        x = np.clip(codes, limits.min, limits.max).astype(dtype)
    parts = [session.run(None, {"input": image[None]}) for image in x]
    names = [output.name for output in session.get_outputs()]
    found = map(np.concatenate, zip(*parts, strict=True))
    return dict(zip(names, found, strict=True)), facts


@pytest.mark.parametrize("layers", [(), ("fc",), ("point",)])
@pytest.mark.parametrize(
    ("io", "dtype"), [("float", np.float32), ("uint8", np.uint8), ("int8", np.int8)]
)
def test_all_outputs_are_near_those_of_float32(fp32, tmp_path, io, dtype, layers):
    expected, _ = run(fp32, images(8))
    path = tmp_path / "int8.onnx"
    quantize_onnx(fp32, path, [images(8)], io=io, float_layers=layers, method="minmax")
    outputs, facts = run(path, images(8))
    assert outputs.keys() == expected.keys()
    for name, values in outputs.items():
        assert values.dtype == dtype
        scale, zero_point = (
            float(facts.get(f"{name}.{key}", 0)) for key in ("scale", "zero_point")
        )
        real = values if io == "float" else (values - zero_point) * scale
        wrong = np.square(real - expected[name]).sum()
        assert wrong < 0.01 * np.square(expected[name]).sum(), name
