"""Why operators of our int8 .onnx files are float: the quantizer's word beside the runtime's."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from mnv4_deploy.exporters.audit import check
from mnv4_deploy.exporters.records import Artifact, Int8Choice, SearchResult
from mnv4_deploy.exporters.to_onnx.convert import export_onnx
from mnv4_deploy.exporters.to_onnx.quantize import float_reasons, quantize_onnx
from mnv4_deploy.pipelines.export import _Export
from mnv4_deploy.profiles.ort.rules import FIRST_CONVOLUTION, NO_KERNEL, RULES
from mnv4_deploy.terminal.export import _defects

SIZE = (16, 16)
CHOSEN = "it was chosen to stay in float"
CONVERTED = "its input is a float operator's result, and converting it costs more"
OPTIONS = {"io": "float", "float_modules": (), "float_layers": ()}


class Net(nn.Module):
    """Two convolutions, GELU between products of a softmax, and a layer behind it."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.point = nn.Conv2d(8, 8, 1)
        self.gelu = nn.GELU()
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.point(self.stem(x))
        weights = (x @ x.transpose(2, 3)).softmax(-1)
        return self.fc(self.gelu(weights @ x).mean((2, 3)))


@pytest.fixture(scope="module")
def fp32(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("reasons") / "net-fp32.onnx"
    export_onnx(Net().eval(), path, input_shape=(1, *SIZE))
    return path


def _int8(fp32, folder, **options):
    path = folder / "net-int8.onnx"
    x = np.random.default_rng(0).normal(size=(8, 3, *SIZE)).astype(np.float32)
    return path, quantize_onnx(fp32, path, [x], **options)


def _of(path, audit):
    """Reasons by the names of nodes, of what onnxruntime runs in float."""
    nodes = onnx.load(path).graph.node
    return {nodes[op.index].name: op.float_reason for op in audit.facts.in_float}


@pytest.mark.parametrize("layers", [(), ("point",), ("stem", "fc")])
def test_what_runs_in_float_has_the_quantizers_reason(fp32, tmp_path, layers):
    path, report = _int8(fp32, tmp_path, float_layers=layers)
    reasons = float_reasons(fp32, path, **{**OPTIONS, "float_layers": layers})
    assert reasons == {name: reason for name, _, reason in report.float_ops}
    found = _of(path, check(path, reasons))
    assert found.items() <= reasons.items()
    # What it says of each kind, whatever the layers.
    kinds = {node.name: node.op_type for node in onnx.load(path).graph.node}
    by_kind = {kinds[name]: reason for name, reason in found.items()}
    assert by_kind["Softmax"] == RULES["Softmax"].slower
    assert by_kind["Gelu"] == NO_KERNEL
    assert CONVERTED in {reason for name, reason in found.items() if kinds[name] == "MatMul"}
    chosen = {name.split("/")[0] for name, reason in found.items() if reason == CHOSEN}
    assert chosen == set(layers)
    if "stem" not in layers:
        assert found["stem/Conv"] == FIRST_CONVOLUTION


def test_a_file_alone_does_not_tell_what_was_chosen(fp32, tmp_path):
    path, _ = _int8(fp32, tmp_path, float_layers=("point",))
    alone = _of(path, check(path))
    told = _of(path, check(path, {"point/Conv": CHOSEN, "no such node": "x"}))
    assert told == {**alone, "point/Conv": CHOSEN}
    assert CHOSEN not in alone.values()


def test_what_shields_a_chosen_layer_says_so(fp32, tmp_path):
    _, report = _int8(fp32, tmp_path, float_layers=("point",), io="uint8")
    shields = [reason for _, kind, reason in report.float_ops if kind == "Mul"]
    assert shields and all("keeps onnxruntime from" in reason for reason in shields)


def test_integer_inputs_have_no_first_convolution(fp32, tmp_path):
    _, report = _int8(fp32, tmp_path, io="uint8")
    assert FIRST_CONVOLUTION not in {reason for _, _, reason in report.float_ops}


def test_export_names_them_grouped_and_not_all(fp32, tmp_path):
    path, report = _int8(fp32, tmp_path)
    reasons = {name: reason for name, _, reason in report.float_ops}
    audit = check(path, reasons)
    kinds = Counter((op.kind, op.float_reason) for op in audit.facts.in_float)
    (kind, reason), count = kinds.most_common(1)[0]
    first, *_ = lines = list(_defects(audit))
    assert first == f"net-int8.onnx: {count} x {kind} in float: {reason}"
    assert len(lines) == len(kinds) <= 5
    path, report = _int8(fp32, tmp_path, float_layers=("point", "fc"))
    reasons = {name: reason for name, _, reason in report.float_ops}
    many = check(path, {name: f"[b]{index}" for index, name in enumerate(reasons)})
    assert len(many.facts.in_float) > 5
    assert len(list(_defects(many))) == 5
    assert all("\\[b]" in line for line in _defects(many))


def test_of_a_search_the_reasons_are_those_of_its_choice(fp32, tmp_path):
    path, _ = _int8(fp32, tmp_path, float_layers=("point",))
    files = {"fp32": fp32, "int8": path}
    job = SimpleNamespace(
        path=lambda _, precision: files[precision],
        request=SimpleNamespace(effective_io="float"),
        float_modules={},
    )
    export = SimpleNamespace(job=job)
    trial = SimpleNamespace(choice=Int8Choice(float_layers=("point",)))
    search = SimpleNamespace(format="onnx", chosen=trial)
    artifacts = {
        (format_, precision): Artifact(path, format_, precision, 1, "")
        for format_ in ("onnx", "tflite")
        for precision in ("float32", "int8")
    }

    def told(artifact, *searches):
        return _Export._float_reasons(export, artifact, SearchResult(searches, (), ()))

    assert told(artifacts["onnx", "int8"], search)["point/Conv"] == CHOSEN
    assert CHOSEN not in told(artifacts["onnx", "int8"]).values()
    assert told(artifacts["onnx", "float32"]) == told(artifacts["tflite", "int8"]) == {}
