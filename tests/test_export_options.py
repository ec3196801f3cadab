"""What else an export can be asked for, and what its files then take and give."""

import json
import re
from dataclasses import replace
from functools import partial
from io import StringIO

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from rich.console import Console

from mnv4_deploy.exporters.records import ExportRequest
from mnv4_deploy.exporters.rewrites import chains
from mnv4_deploy.images.preprocessing import normalize
from mnv4_deploy.models.weights import load_reference
from mnv4_deploy.pipelines import export as pipeline
from mnv4_deploy.profiles.records.files import OperatorFacts
from mnv4_deploy.sessions.image_runner import open_image_runner
from mnv4_deploy.terminal.export import print_export
from tests.tiny_network import CONV_TINY, SMALL_EXPORT, put_into_zoo
from tests.widths import assert_whole_at_every_width

pytestmark = pytest.mark.usefixtures("no_child")


@pytest.fixture(autouse=True)
def _tiny_in_zoo(monkeypatch):
    put_into_zoo(CONV_TINY, monkeypatch)


def _export(out, formats, **options):
    request = ExportRequest(out=out, formats=formats, **{**SMALL_EXPORT, **options})
    result = pipeline.export(request)
    assert all(entry["ok"] for entry in result.manifest["verification"])
    assert {path.name for path in out.iterdir()} == {
        "manifest.json",
        *(artifact.path.name for artifact in result.artifacts),
    }
    return result


def _io(result, precision):
    """Dtypes and shapes of input and output, as the manifest has them."""
    (entry,) = [f for f in result.manifest["files"] if f["precision"] == precision]
    (source,), (sink,) = entry["inputs"], entry["outputs"]
    return source["dtype"], sink["dtype"], tuple(source["shape"])


def _agrees(result):
    """int8 is close to fp32: random weights have near ties, so angles and not classes."""
    (drift,) = result.drifts
    return drift.figures["cosine"] > 0.98


@pytest.mark.usefixtures("converted_once")
@pytest.mark.parametrize("io", ["float", "int8", "uint8"])
class TestInputsAndOutputs:
    def test_onnx(self, tmp_path, io):
        result = _export(tmp_path / "out", ("onnx",), int8=True, io=io)
        dtype = "float32" if io == "float" else io
        assert _io(result, "int8") == (dtype, dtype, (1, 3, 32, 32))
        assert _io(result, "float32")[:2] == ("float32", "float32")
        assert _agrees(result)

    def test_tflite(self, tmp_path, io):
        result = _export(tmp_path / "out", ("tflite",), int8=True, io=io)
        dtype = "float32" if io == "float" else io
        assert _io(result, "int8") == (dtype, dtype, (1, 32, 32, 3))
        assert _agrees(result)
        assert all(f["partitions"] == 1 for f in result.manifest["files"])

    def test_onnx_with_baked_preprocessing(self, tmp_path, io):
        result = _export(tmp_path / "out", ("onnx",), int8=True, io=io, bake_preprocess=True)
        sink = "float32" if io == "float" else io
        assert _io(result, "int8") == ("uint8", sink, (1, 32, 32, 3))
        assert _io(result, "float32") == ("uint8", "float32", (1, 32, 32, 3))
        assert _agrees(result)

    def test_tflite_with_baked_preprocessing(self, tmp_path, io):
        result = _export(tmp_path / "out", ("tflite",), int8=True, io=io, bake_preprocess=True)
        sink = "float32" if io == "float" else io
        assert _io(result, "int8") == ("uint8", sink, (1, 32, 32, 3))
        assert _io(result, "float32") == ("uint8", "float32", (1, 32, 32, 3))
        assert _agrees(result)


@pytest.mark.usefixtures("converted_once")
def test_integer_only(tmp_path):
    result = _export(tmp_path / "out", ("tflite",), int8=True, target="integer-only")
    assert _io(result, "int8")[:2] == ("int8", "int8")
    (truth,) = [t for t in result.audits if "int8" in t.subject]
    assert set(truth.facts.compute_histogram) <= {"int8", "none", "int8->int8"}
    # XNNPACK is not what the file is for.
    stream = StringIO()
    refused = OperatorFacts(0, "QUANTIZE", "q", "int8", delegated=False, refusal="zero points")
    facts = replace(truth.facts, operators=(refused, *truth.facts.operators))
    audits = tuple(replace(t, facts=facts) if t is truth else t for t in result.audits)
    print_export(replace(result, audits=audits), Console(file=stream))
    assert "zero points" not in stream.getvalue()
    assert _agrees(result)


@pytest.mark.usefixtures("converted_once")
def test_the_target_of_each_format(tmp_path, capsys):
    """With full steps the largest weight of each channel has the code 127; without, pairs of
    large ones keep some from it. TFLite is the same; both are named in the manifest."""
    largest, files = {}, {}
    for target, cpu in (("xnnpack", "any-cpu"), ("xnnpack,vnni", "vnni"), ("arm", "arm")):
        result = _export(tmp_path / target, ("onnx", "tflite"), int8=True, target=target)
        files[target] = {a.format: a.sha256 for a in result.artifacts if a.precision == "int8"}
        named = {f["format"]: f.get("target") for f in result.manifest["files"]}
        assert named == {"onnx": cpu, "tflite": "xnnpack"}
        model = onnx.load(tmp_path / target / "conv-tiny-int8.onnx")
        codes = [numpy_helper.to_array(t) for t in model.graph.initializer]
        largest[target] = [
            np.abs(c.astype(int)).reshape(len(c), -1).max(axis=1)
            for c in codes
            if c.dtype == np.int8 and c.ndim == 4
        ]
        assert all(drift.figures["cosine"] > 0.98 for drift in result.drifts)
        print_export(result)
        assert_whole_at_every_width(partial(print_export, result))
        warned = "conv-tiny-int8.onnx is for" in " ".join(capsys.readouterr().out.split())
        assert warned == (cpu != "any-cpu")
    assert files["arm"] == files["xnnpack,vnni"]
    assert files["arm"]["tflite"] == files["xnnpack"]["tflite"]
    assert files["arm"]["onnx"] != files["xnnpack"]["onnx"]
    assert all((layer == 127).all() for layer in largest["arm"])
    assert any((layer < 127).any() for layer in largest["xnnpack"])


@pytest.mark.usefixtures("converted_once")
def test_fp16(tmp_path):
    result = _export(tmp_path / "out", ("onnx", "tflite"), fp16=True)
    by_precision = {(a.format, a.precision): a.size_bytes for a in result.artifacts}
    for format_ in ("onnx", "tflite"):
        assert by_precision[format_, "float16"] < 0.6 * by_precision[format_, "float32"]
    tiers = {d.subject: d.tier for d in result.deviations}
    assert tiers["conv-tiny-fp16.onnx"] == tiers["conv-tiny-fp16.tflite"] == "float16"
    assert result.manifest["calibration"] is None
    half = {drift.subject: drift for drift in result.drifts}
    assert half.keys() == {"conv-tiny-fp16.onnx", "conv-tiny-fp16.tflite"}
    assert all(drift.figures["cosine"] > 0.9999 for drift in result.drifts)
    assert [entry["subject"] for entry in result.manifest["drift"]] == list(half)


@pytest.mark.usefixtures("converted_once")
def test_what_files_of_floats_are_not_said_to_be(tmp_path):
    """How many operators are int8 is told of int8 files, how well each agrees of all others."""
    result = _export(tmp_path / "out", ("onnx",), int8=True, fp16=True)
    stream = StringIO()
    print_export(result, Console(file=stream, width=120))
    rows = {
        line.split()[0]: line
        for line in stream.getvalue().splitlines()
        if line.startswith("conv-tiny-")
    }
    assert re.search(r"\d+ of \d+", rows["conv-tiny-int8.onnx"])
    for name in ("conv-tiny-fp32.onnx", "conv-tiny-fp16.onnx"):
        assert " of " not in rows[name]
    for drift in result.drifts:
        assert f"{drift.figures['median_sqnr_db']:.1f} dB" in rows[drift.subject]


@pytest.mark.usefixtures("converted_once")
def test_a_budget_that_the_first_trial_meets(tmp_path, monkeypatch):
    """All images are of class 0 and int8 may lose 100 points: there is nothing to search for."""
    gather = pipeline._gather

    def labelled(request):
        inputs = gather(replace(request, max_drop=None))
        images = tuple(replace(image, truth=0) for image in inputs.evaluation.images)
        return replace(inputs, evaluation=replace(inputs.evaluation, images=images))

    monkeypatch.setattr(pipeline, "_gather", labelled)
    plain = _export(tmp_path / "plain", ("onnx",), int8=True)
    result = _export(tmp_path / "out", ("onnx",), int8=True, max_drop=100.0)
    (search,) = result.searches
    assert result.budget_met
    assert search.chosen == search.trials[0]
    assert len(search.trials) == 1
    assert result.drifts == plain.drifts
    (drift,) = result.drifts
    assert search.chosen.drop == drift.figures["top1_drop"]
    assert 0 < search.chosen.latency_us < 1e6
    assert plain.manifest["budget"] == []
    assert result.manifest["options"]["max_drop"] == 100.0
    (entry,) = json.loads((tmp_path / "out" / "manifest.json").read_text())["budget"]
    assert entry["met"]
    assert entry["chosen"]["choice"]["method"] == "average"
    assert [a.sha256 for a in result.artifacts] == [a.sha256 for a in plain.artifacts]


def test_not_square_with_a_free_batch(tmp_path):
    result = _export(tmp_path / "out", ("onnx",), size=(64, 96), dynamic_batch=True, int8=True)
    spec = load_reference(CONV_TINY.name, "random", size=(64, 96), num_classes=10).preprocessing
    pixels = np.random.default_rng(0).integers(0, 256, (5, 64, 96, 3), np.uint8)
    x = normalize(pixels, spec).transpose(0, 3, 1, 2)
    for artifact in result.artifacts:
        session = onnxruntime.InferenceSession(artifact.path)
        assert isinstance(session.get_inputs()[0].shape[0], str)
        together = session.run(None, {"input": x})[0]
        one_by_one = open_image_runner(artifact.path, spec).outputs(pixels)["logits"]
        np.testing.assert_allclose(together, one_by_one, rtol=1e-3, atol=1e-3)


def test_static_batch_that_does_not_divide_the_images(tmp_path):
    """16 images in batches of 5: the last batch is filled up and its filling ignored."""
    result = _export(tmp_path / "out", ("onnx",), batch=5, int8=True)
    shapes = {f["file"]: f["inputs"][0]["shape"][0] for f in result.manifest["files"]}
    assert set(shapes.values()) == {5}
    assert {d.images for d in result.drifts} == {16}
    assert all(d.figures["cosine"] > 0.98 for d in result.drifts)


@pytest.mark.usefixtures("converted_once")
def test_random_calibration_is_called_that(tmp_path, capsys):
    from mnv4_deploy.terminal.export import print_export

    result = _export(tmp_path / "out", ("onnx",), int8=True, calibration="random")
    assert result.manifest["calibration"]["kind"] == "random"
    assert "not images" in result.manifest["calibration"]["note"]
    print_export(result)
    assert "random data" in capsys.readouterr().out


@pytest.mark.usefixtures("converted_once")
def test_users_images_and_the_ones_that_were_skipped(tmp_path, capsys):
    from PIL import Image

    from mnv4_deploy.terminal.export import print_export

    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(16):
        pixels = rng.integers(0, 256, (50 + index, 40, 3), np.uint8)
        Image.fromarray(pixels).convert("LA" if index % 2 else "RGB").save(folder / f"{index}.png")
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:500])
    result = _export(
        tmp_path / "out",
        ("onnx",),
        int8=True,
        calibration=str(folder),
        calibration_images=50,
    )
    calibration = result.manifest["calibration"]
    assert (calibration["kind"], calibration["name"]) == ("folder", "photos")
    assert calibration["count"] == 16
    assert [skipped["name"] for skipped in calibration["skipped"]] == ["broken.png"]
    assert str(tmp_path) not in json.dumps(result.manifest)
    print_export(result)
    assert "skipped broken.png" in capsys.readouterr().out


@pytest.mark.usefixtures("converted_once")
def test_rewriting_does_not_wait_for_its_own_threads(tmp_path, monkeypatch):
    """Threads that wait for each other after every small step stand still on a busy machine."""
    seen = []

    def rewrite(*arguments):
        seen.append(torch.get_num_threads())
        return chains_rewrite(*arguments)

    chains_rewrite = chains.rewrite
    monkeypatch.setattr(chains, "rewrite", rewrite)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        _export(tmp_path / "out", ("onnx",))
        assert (seen, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)
