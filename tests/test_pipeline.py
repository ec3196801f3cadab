"""Exports from end to end, through the command line, and what their files compute."""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import re
import signal
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from ai_edge_litert.interpreter import Interpreter
from onnx import numpy_helper

from mnv4_deploy.cli import app as cli
from mnv4_deploy.errors import VerificationError
from mnv4_deploy.exporters import verify
from mnv4_deploy.exporters.records import ExportRequest
from mnv4_deploy.exporters.to_onnx import write as to_onnx
from mnv4_deploy.exporters.to_tflite import write as to_tflite
from mnv4_deploy.exporters.to_tflite.flatbuffer import TfliteFile
from mnv4_deploy.images import sets as images
from mnv4_deploy.images.preprocessing import normalize
from mnv4_deploy.models.weights import load_reference
from mnv4_deploy.outputs import staged, write_manifest
from mnv4_deploy.pipelines import export as pipeline
from mnv4_deploy.profiles.ort.rules import RULES
from mnv4_deploy.sessions.image_runner import open_image_runner
from mnv4_deploy.tasks.classification.task import CLASSIFICATION
from tests.hybrid_export import CALIBRATION_IMAGES, EVAL_IMAGES, REAL
from tests.tiny_network import CONV_TINY, SMALL_EXPORT, put_into_zoo

# What the main job's own process does in children is done in this one where it is looked at.
pytestmark = pytest.mark.usefixtures("no_child")
SIZE = (64, 64)
FILES = {
    "hybrid-m-fp32.onnx": ("onnx", "float32"),
    "hybrid-m-int8.onnx": ("onnx", "int8"),
    "hybrid-m-fp32.tflite": ("tflite", "float32"),
    "hybrid-m-int8.tflite": ("tflite", "int8"),
}


@pytest.fixture(autouse=True)
def _tiny_in_zoo(monkeypatch):
    put_into_zoo(CONV_TINY, monkeypatch)


@pytest.fixture(scope="session")
def real(hybrid_files):
    """The folder of the main job, and what it said."""
    return hybrid_files.out, hybrid_files


@pytest.fixture(scope="session")
def manifest(real):
    out, _ = real
    return json.loads((out / "manifest.json").read_text())


@pytest.fixture(scope="session")
def reference():
    return load_reference("hybrid-m", size=SIZE)


@pytest.fixture(scope="session")
def pixels(reference):
    found = CLASSIFICATION.find_images("bundled", "evaluation", reference)
    return images.select(found, 16).pixels(reference.preprocessing)


@pytest.fixture(scope="session")
def expected(reference, pixels):
    found = verify.run_module(reference.module, pixels, reference.preprocessing)
    return found["logits"]


class TestRealExport:
    def test_speaks_only_json_on_stdout_and_nothing_off_a_terminal(self, real, manifest):
        _, done = real
        assert done.stderr == ""
        assert json.loads(done.stdout) == manifest

    def test_leaves_exactly_its_files(self, real):
        out, _ = real
        assert {path.name for path in out.iterdir()} == {*FILES, "manifest.json"}

    def test_lists_every_file_with_size_and_hash(self, real, manifest):
        out, _ = real
        assert manifest["schema_version"] == 3
        assert {f["file"]: (f["format"], f["precision"]) for f in manifest["files"]} == FILES
        for entry in manifest["files"]:
            content = (out / entry["file"]).read_bytes()
            assert entry["size_bytes"] == len(content)
            assert entry["sha256"] == hashlib.sha256(content).hexdigest()

    def test_says_what_the_model_is(self, manifest):
        assert manifest["model"]["name"] == "hybrid-m"
        assert manifest["model"]["num_classes"] == 10
        assert len(manifest["labels"]) == 10
        assert manifest["preprocessing"]["height"] == manifest["preprocessing"]["width"] == 64
        assert manifest["weights"]["kind"] == "bundled"
        assert re.fullmatch("[0-9a-f]{64}", manifest["weights"]["sha256"])
        assert "demonstration" in manifest["weights"]["note"]
        for tool in ("torch", "onnx", "onnxruntime", "litert-torch", "ai-edge-quantizer"):
            assert manifest["tools"][tool] == importlib.metadata.version(tool)
        assert manifest["tools"]["mnv4-deploy"] == importlib.metadata.version("mnv4-deploy")

    def test_says_nothing_of_the_machine(self, real, manifest):
        out, done = real
        text = json.dumps(manifest)
        assert done.told not in text and str(out) not in text
        assert str(Path.home()) not in text
        assert "/tmp" not in text

    def test_input_specification(self, manifest):
        for entry in manifest["files"]:
            (source,), (result,) = entry["inputs"], entry["outputs"]
            is_tflite = entry["format"] == "tflite"
            assert tuple(source["shape"]) == ((1, 64, 64, 3) if is_tflite else (1, 3, 64, 64))
            assert tuple(result["shape"]) == (1, 10)
            assert (source["name"], result["name"]) == ("input", "logits")
            assert source["dtype"] == result["dtype"] == "float32"

    def test_provenance_of_images(self, manifest):
        calibration, evaluation = manifest["calibration"], manifest["evaluation"]
        assert (calibration["kind"], calibration["count"]) == ("bundled", CALIBRATION_IMAGES)
        assert (evaluation["kind"], evaluation["count"]) == ("bundled", EVAL_IMAGES)
        for source in (calibration, evaluation):
            hashes = source["image_sha256"]
            assert len(set(hashes)) == source["count"]
            listing = "".join(f"{digest}\n" for digest in hashes)
            assert source["sha256"] == hashlib.sha256(listing.encode()).hexdigest()
        assert not set(calibration["image_sha256"]) & set(evaluation["image_sha256"])

    def test_verification_and_drift(self, manifest):
        checked = {entry["subject"]: entry for entry in manifest["verification"]}
        assert set(checked) == {
            "the rewritten model for onnx",
            "the rewritten model for tflite",
            "hybrid-m-fp32.onnx",
            "hybrid-m-fp32.tflite",
        }
        assert all(entry["ok"] for entry in checked.values())
        assert {entry["tier"] for entry in checked.values()} == {"float64", "float32"}
        assert {drift["subject"] for drift in manifest["drift"]} == {
            "hybrid-m-int8.onnx",
            "hybrid-m-int8.tflite",
        }
        for drift in manifest["drift"]:
            assert drift["images"] == EVAL_IMAGES
            assert drift["figures"]["agreement"] > 90
            assert drift["figures"]["cosine"] > 0.98
            assert abs(drift["figures"]["top1_drop"]) < 10
            # 64 px is below the weights' own 96, but no guessing.
            assert drift["figures"]["top1_reference"] > 40

    def test_truth_check(self, manifest):
        for entry in manifest["files"]:
            assert entry["overflowing_biases"] == entry["padding_outliers"] == []
            weights = entry["weight_bytes_by_dtype"]
            assert max(weights, key=weights.get) == entry["precision"]
            if entry["format"] == "tflite":
                assert entry["partitions"] == 1
                assert entry["delegated_share"] == 1
                assert entry["not_delegated"] == []
            told = {(op["op"], op["why"]) for op in entry.get("in_float", ())}
            assert ("in_float" in entry) == (entry["file"] == "hybrid-m-int8.onnx")
            assert ("Softmax", RULES["Softmax"].slower) in told or "in_float" not in entry
            assert None not in {why for _, why in told}
        for format_ in ("onnx", "tflite"):
            before, after = (manifest["layer_histogram"][format_][k] for k in ("before", "after"))
            assert before["BatchNorm2d"] > 50
            assert "BatchNorm2d" not in after
        for format_ in ("onnx", "tflite"):
            done = {
                r["name"] for r in manifest["rewrites"] if r["format"] == format_ and r["changed"]
            }
            folds = {"fold_batch_norm", "fold_layer_scale", "fold_pre_norm"}
            assert done == {*folds, f"mqa_for_{format_}"}

    @pytest.mark.parametrize("name", [name for name in FILES if "fp32" in name])
    def test_fp32_files_answer_as_pytorch_does(self, real, reference, pixels, expected, name):
        """With nothing of ours between the runtimes and the images but the normalisation."""
        out, _ = real
        x = normalize(pixels, reference.preprocessing)
        if name.endswith(".onnx"):
            session = onnxruntime.InferenceSession(out / name)
            rows = [session.run(None, {"input": i.transpose(2, 0, 1)[None]})[0][0] for i in x]
        else:
            runner = Interpreter(str(out / name)).get_signature_runner()
            rows = [runner(input=i[None])["logits"][0] for i in x]
        error = np.abs(np.array(rows) - expected).max() / np.abs(expected).max()
        assert error < 1e-4
        assert (np.array(rows).argmax(1) == expected.argmax(1)).all()

    @pytest.mark.parametrize("name", [name for name in FILES if "int8" in name])
    def test_int8_files_answer_nearly_as_pytorch_does(
        self, real, reference, pixels, expected, name
    ):
        out, _ = real
        runner = open_image_runner(out / name, reference.preprocessing)
        rows = runner.outputs(pixels)["logits"]
        assert (rows.argmax(1) == expected.argmax(1)).mean() >= 14 / 16
        signal_, noise = np.square(expected).sum(), np.square(rows - expected).sum()
        assert 10 * np.log10(signal_ / noise) > 10

    def test_files_describe_themselves(self, real, manifest):
        out, _ = real
        for name in FILES:
            if name.endswith(".tflite"):
                with zipfile.ZipFile(out / name) as archive:
                    assert (
                        archive.read("labels.txt").decode().split("\n")[:-1]
                        == (manifest["labels"])
                    )
                continue
            facts = {p.key: p.value for p in onnx.load(out / name).metadata_props}
            assert json.loads(facts["labels"]) == manifest["labels"]
            assert json.loads(facts["preprocessing"]) == manifest["preprocessing"]
            assert json.loads(facts["weights"]) == manifest["weights"]
            assert json.loads(facts["tools"]) == manifest["tools"]

    def test_a_second_run_is_refused(self, real, capfd, monkeypatch):
        out, _ = real
        before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
        monkeypatch.setattr(pipeline._Export, "run", lambda _: pytest.fail("the export began"))
        code, stdout, stderr = _main(capfd, *REAL, "--out", out)
        assert (code, json.loads(stdout)["error"]["exit_code"]) == (2, 2)
        assert "--overwrite" in stderr
        assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


def _main(capfd, *arguments):
    handler = signal.getsignal(signal.SIGTERM)
    capfd.readouterr()
    try:
        with pytest.raises(SystemExit) as exit_:
            cli.main([str(argument) for argument in arguments])
    finally:
        signal.signal(signal.SIGTERM, handler)
    captured = capfd.readouterr()
    return exit_.value.code or 0, captured.out, captured.err


class TestWrongFiles:
    """A converter that gives a wrong file ends in exit code 3 and no file at all."""

    COMMAND = (
        *("export", "--model", CONV_TINY.name, "--weights", "random", "--size", "32"),
        *("--num-classes", "10", "--eval-images", "16"),
    )

    @pytest.fixture
    def wrong_tflite(self, converted_once, monkeypatch):
        """One bias is changed."""
        del converted_once  # which this wraps
        export = vars(to_tflite)["export_tflite"]

        def convert(module, path, **options):
            export(module, path, **options)
            file = TfliteFile(path)
            bias = next(o for o in file.operators("CONV_2D")).inputs[2]
            buffer = file.model.buffers[file.graph.tensors[int(bias)].buffer]
            values = np.frombuffer(bytes(buffer.data), np.float32).copy()
            values[0] += 0.05
            buffer.data = values.view(np.uint8)
            file.write(path)

        monkeypatch.setattr(to_tflite, "export_tflite", convert)

    @pytest.fixture
    def wrong_onnx(self, converted_once, monkeypatch):
        del converted_once
        export = vars(to_onnx)["export_onnx"]

        def convert(module, path, **options):
            export(module, path, **options)
            model = onnx.load(path)
            conv = next(node for node in model.graph.node if node.op_type == "Conv")
            bias = next(t for t in model.graph.initializer if t.name == conv.input[2])
            values = numpy_helper.to_array(bias).copy()
            values[0] += 0.05
            bias.CopyFrom(numpy_helper.from_array(values, bias.name))
            onnx.save(model, path)

        monkeypatch.setattr(to_onnx, "export_onnx", convert)

    def _check(self, capfd, name, *arguments):
        code, stdout, stderr = _main(capfd, *arguments)
        assert code == 3
        assert stdout == ""
        (line,) = [line for line in stderr.splitlines() if line.startswith("mnv4-deploy: ")]
        assert f"{name} differs from PyTorch" in line
        assert "'float32'" in line
        assert "Traceback" not in stderr
        return line

    @pytest.mark.usefixtures("wrong_tflite")
    def test_tflite(self, capfd, tmp_path):
        out = tmp_path / "new" / "out"
        name = "conv-tiny-fp32.tflite"
        self._check(capfd, name, *self.COMMAND, "--format", "tflite", "--out", out)
        assert not any(tmp_path.iterdir())

    @pytest.mark.usefixtures("wrong_onnx")
    def test_onnx_keeps_the_earlier_export(self, capfd, tmp_path):
        with staged(tmp_path, overwrite=False) as folder:
            (folder / "conv-tiny-fp32.onnx").write_bytes(b"the earlier one")
            write_manifest(folder, {})
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        self._check(
            capfd,
            "conv-tiny-fp32.onnx",
            *(*self.COMMAND, "--format", "onnx", "--out", tmp_path, "--overwrite"),
        )
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    @pytest.mark.parametrize("name", ["fold_batch_norm", "fold_layer_scale", "none"])
    def test_wrong_rewrite_is_named(self, monkeypatch, tmp_path, name):
        """One that goes wrong in the middle of the chain, and one that only finds it wrong."""
        from mnv4_deploy.exporters.rewrites import chains
        from mnv4_deploy.exporters.rewrites.base import RewriteReport

        def spoilt(module, example, right=None):
            report = right(module, example) if right else RewriteReport(name)
            next(module.parameters()).data[0] *= 1 + 1e-6
            return dataclasses.replace(report, changed=(*report.changed, "stem"))

        chain = chains.CHAINS["onnx"]
        found = [
            functools.partial(spoilt, right=step) if step.__name__ == name else step
            for step in chain
        ]
        if name == "none":
            found.insert(1, spoilt)
        monkeypatch.setitem(chains.CHAINS, "onnx", tuple(found))
        with pytest.raises(VerificationError, match=f"rewritten model for onnx.*{name}"):
            pipeline.export(ExportRequest(out=tmp_path / "x", formats=("onnx",), **SMALL_EXPORT))
        assert not any(tmp_path.iterdir())
