"""The Python API: what the package promises at its top level."""

import dataclasses
import inspect as introspection
import json
import subprocess
import sys

import pytest

import mnv4_deploy
from mnv4_deploy import errors
from mnv4_deploy.cli.export import export as command
from mnv4_deploy.exporters.records import ExportRequest
from tests.tiny_network import CONV_TINY, put_into_zoo


def test_importing_the_package_imports_nothing_heavy():
    program = "import sys, mnv4_deploy; print(*sys.modules)"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "onnx", "rich"} & set(done.stdout.split())


def test_export_and_inspect(tmp_path, monkeypatch):
    put_into_zoo(CONV_TINY, monkeypatch)
    result = mnv4_deploy.export(
        CONV_TINY.name,
        str(tmp_path / "out"),
        weights="random:3",
        formats=("onnx",),
        size=(32, 64),
        num_classes=7,
        evaluation_images=16,
    )
    (artifact,) = result.artifacts
    assert artifact.path == tmp_path / "out" / "conv-tiny-fp32.onnx"
    assert artifact.path.stat().st_size == artifact.size_bytes
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest == json.loads(json.dumps(result.manifest))
    assert manifest["weights"]["name"] == "random:3"
    assert "untrained" in manifest["weights"]["note"]
    facts = mnv4_deploy.inspect(artifact.path)
    assert facts.sha256 == artifact.sha256
    assert facts.inputs[0].shape == (1, 3, 32, 64)
    assert facts.outputs[0].shape == (1, 7)
    with pytest.raises(errors.OutputError):
        mnv4_deploy.export(CONV_TINY.name, tmp_path / "out", weights="random", formats=("onnx",))


def test_errors_are_of_one_family(tmp_path):
    with pytest.raises(errors.UnknownModelError) as raised:
        mnv4_deploy.export("hybrid-x", tmp_path / "out")
    assert isinstance(raised.value, errors.InputError)
    assert isinstance(raised.value, errors.DeployError)
    with pytest.raises(errors.ModelFileError):
        mnv4_deploy.inspect(tmp_path / "missing.onnx")
    with pytest.raises(errors.UnsupportedError):
        mnv4_deploy.export("conv-s", tmp_path / "out", io="int8")
    assert not any(tmp_path.iterdir())


def test_unknown_option_is_a_type_error(tmp_path):
    with pytest.raises(TypeError, match="colour"):
        mnv4_deploy.export("conv-s", tmp_path / "out", colour="red")


def test_command_line_and_api_have_the_same_options_and_defaults():
    request = {f.name: f.default for f in dataclasses.fields(ExportRequest)}
    parameters = introspection.signature(command).parameters
    renamed = {
        "calib": "calibration",
        "calib_images": "calibration_images",
        "calib_method": "calibration_method",
        "evaluate": "evaluation",
        "eval_images": "evaluation_images",
    }
    on_the_command_line = {
        renamed.get(name, name): parameter.default for name, parameter in parameters.items()
    }
    assert on_the_command_line.pop("as_json") is False
    assert on_the_command_line.pop("model_option") is None  # the same model, named once
    # The command line knows one task.
    assert set(on_the_command_line) == set(request) - {"task"}
    for name, default in on_the_command_line.items():
        if name not in ("model", "out", "formats"):
            assert default == request[name], name
    assert on_the_command_line["formats"] == ",".join(request["formats"])


def test_version_is_the_packages():
    from importlib import metadata

    assert mnv4_deploy.__version__ == metadata.version("mnv4-deploy")
