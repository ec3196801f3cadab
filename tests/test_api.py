"""The Python API: what the package promises at its top level."""

import dataclasses
import inspect as introspection
import json
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import typer

import mnv4_deploy
from mnv4_deploy import errors
from mnv4_deploy.api.arguments import given_inputs, record
from mnv4_deploy.cli.app import app
from mnv4_deploy.drift.records import DriftRequest
from mnv4_deploy.exporters.records import ExportRequest
from mnv4_deploy.parity.records import ParityRequest
from mnv4_deploy.pipelines.compare_devices import DevicesRequest
from mnv4_deploy.pipelines.profile import ProfileRequest
from mnv4_deploy.profiles.graph.given_inputs import fitted
from mnv4_deploy.profiles.records.profile import MeasureRequest
from mnv4_deploy.tasks.classification.task import CLASSIFICATION
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
        mnv4_deploy.export("conv-s", tmp_path / "out", **{"colour": "red"})


# The functions of each command; what a command does with an option, another function does.
OF_COMMAND = {
    "export": (mnv4_deploy.export,),
    "models": (mnv4_deploy.list_models, mnv4_deploy.find_model),
    "inspect": (mnv4_deploy.inspect,),
    "profile": (mnv4_deploy.profile, mnv4_deploy.predict),
    "machine": (mnv4_deploy.measure_machine, mnv4_deploy.list_machines),
    "roofline": (mnv4_deploy.sweep_roofline,),
    "compare": (mnv4_deploy.compare, mnv4_deploy.compare_devices),
    "drift": (mnv4_deploy.measure_drift,),
    "device": (mnv4_deploy.inspect_device, mnv4_deploy.remove_device_setup),
    "parity": (mnv4_deploy.check_parity,),
    "cache": (mnv4_deploy.list_caches, mnv4_deploy.clear_cache),
}
# Words of the command line that are shorter than in Python, and several by their number.
LONGER = {
    "calib": "calibration",
    "calib_images": "calibration_images",
    "calib_method": "calibration_method",
    "evaluate": "evaluation",
    "eval_images": "evaluation_images",
    "file": "path",
    "input_value": "inputs",
    "shape": "shapes",
}
# What is said to a terminal or a shell, or in Python by the choice of a function.
ONLY_COMMANDS = {"as_csv", "as_json", "group_by", "sort", "top"}
ONLY_COMMANDS |= {"model_option", "remove_setup"}
ONLY_PYTHON = {"a", "b", "task"}


def callbacks():
    commands: Any = typer.main.get_command(app)
    return {name: command.callback for name, command in commands.commands.items()}


def defaults(function):
    parameters = introspection.signature(function).parameters.values()
    return {LONGER.get(p.name, p.name): p.default for p in parameters}


def test_every_command_has_functions_and_they_are_all_there_is():
    assert set(OF_COMMAND) == set(callbacks())
    functions = [function for pair in OF_COMMAND.values() for function in pair]
    assert {function.__name__ for function in functions} == set(mnv4_deploy.__all__)


@pytest.mark.parametrize("name", mnv4_deploy.__all__)
def test_every_keyword_is_spelled_out_with_its_type(name):
    for parameter in introspection.signature(getattr(mnv4_deploy, name)).parameters.values():
        assert parameter.kind is not parameter.VAR_KEYWORD
        assert parameter.annotation not in (parameter.empty, "Any")


@pytest.mark.parametrize("command", OF_COMMAND)
def test_command_line_and_functions_have_the_same_options_and_defaults(command):
    theirs = {
        name: default
        for name, default in defaults(callbacks()[command]).items()
        if name not in ONLY_COMMANDS
    }
    seen = set()
    for function in OF_COMMAND[command]:
        for name, default in defaults(function).items():
            if name in ONLY_PYTHON:
                continue
            seen.add(name)
            if default is introspection.Parameter.empty:
                continue  # what a function has to be told, some commands find out
            told = theirs[name]
            if name == "formats":
                told = tuple(told.split(","))
            assert default == told or (default == () and told is None), (function, name)
    assert set(theirs) - {"files"} <= seen <= set(theirs)


@pytest.mark.parametrize(
    ("function", "request_"),
    [
        (mnv4_deploy.export, ExportRequest),
        (mnv4_deploy.profile, MeasureRequest),
        (mnv4_deploy.profile, ProfileRequest),
        (mnv4_deploy.measure_drift, DriftRequest),
        (mnv4_deploy.check_parity, ParityRequest),
        (mnv4_deploy.compare_devices, DevicesRequest),
    ],
)
def test_defaults_are_those_of_the_records(function, request_):
    ours = defaults(function)
    same = [f for f in dataclasses.fields(request_) if f.name in ours and f.name != "task"]
    assert len(same) > 2
    for field in same:
        if field.default is not dataclasses.MISSING:
            assert ours[field.name] == field.default, field.name


WRONG = {
    "a format": lambda there: mnv4_deploy.export("conv-s", there, formats="tflight"),
    "no format": lambda there: mnv4_deploy.export("conv-s", there, formats=()),
    "a format's type": lambda there: mnv4_deploy.export("conv-s", there, formats=7),
    "a size": lambda there: mnv4_deploy.export("conv-s", there, size="large"),
    "a size's type": lambda there: mnv4_deploy.export("conv-s", there, size=(1, 2, 3)),
    "an io": lambda there: mnv4_deploy.export("conv-s", there, int8=True, io="int4"),
    "text for a number": lambda there: mnv4_deploy.export("conv-s", there, batch="2"),
    "text for a flag": lambda there: mnv4_deploy.export("conv-s", there, int8="yes"),
    "half an image": lambda there: mnv4_deploy.export("conv-s", there, evaluation_images=2.5),
    "a mean": lambda there: mnv4_deploy.export("conv-s", there, mean=(0.5, 0.5)),
    "a task's class": lambda there: mnv4_deploy.export("conv-s", there, task=type(CLASSIFICATION)),
    "a folder": lambda there: mnv4_deploy.export(
        "conv-s", there, weights="random", evaluation=there / "none", formats="onnx"
    ),
    "a file": lambda there: mnv4_deploy.inspect(there / "none.onnx"),
    "a file to run": lambda there: mnv4_deploy.profile(there / "none.onnx", machine="none"),
    "no path": lambda _: mnv4_deploy.inspect(7),
    "a path of bytes": lambda _: mnv4_deploy.inspect(b"m.onnx"),
    "a statistic": lambda there: mnv4_deploy.profile(there / "m.onnx", statistic="median"),
    "a machine": lambda there: mnv4_deploy.profile(there / "m.onnx", machine="pixel-6"),
    "a published machine": lambda there: mnv4_deploy.predict(there / "m.onnx", "abacus"),
    "cpus": lambda there: mnv4_deploy.profile(there / "m.onnx", cpus="all"),
    "shapes": lambda there: mnv4_deploy.profile(there / "m.onnx", shapes=(1, 3, 8, 8)),
    "a shape": lambda there: mnv4_deploy.profile(there / "m.onnx", shapes=dict.fromkeys([""], 3)),
    "inputs": lambda there: mnv4_deploy.compare(there / "a", there / "b", inputs={"x": "many"}),
    "a limit": lambda _: mnv4_deploy.measure_drift("a.onnx", "b.onnx", fail_if="speed > 1"),
    "limits": lambda _: mnv4_deploy.measure_drift("a.onnx", "b.onnx", fail_if=0.5),
    "an interpolation": lambda _: mnv4_deploy.measure_drift("a", "b", interpolation="best"),
    "no device": lambda there: mnv4_deploy.check_parity(there / "m.onnx"),
    "no devices": lambda there: mnv4_deploy.compare_devices(there / "m.onnx", ()),
    "a tolerance": lambda _: mnv4_deploy.check_parity("m.onnx", "local", tolerance="some"),
    "an address": lambda _: mnv4_deploy.inspect_device("telnet://pi"),
    "an address's type": lambda _: mnv4_deploy.inspect_device(None),
    "an Android's setup": lambda _: mnv4_deploy.measure_machine(device="telnet://pi", setup=1),
    "threads": lambda _: mnv4_deploy.measure_machine("two"),
    "a model": lambda _: mnv4_deploy.sweep_roofline("conv-z"),
    "a ridge point": lambda _: mnv4_deploy.sweep_roofline(max_ridge_point=-1),
    "a cache": lambda _: mnv4_deploy.clear_cache("everything"),
    "a name": lambda _: mnv4_deploy.find_model(7),
}


@pytest.mark.parametrize("what", WRONG)
def test_arguments_that_cannot_be_used_are_input_errors(what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.InputError) as raised:
        WRONG[what](tmp_path)
    assert "\n" not in str(raised.value)
    assert not any(tmp_path.iterdir())


def test_an_argument_is_named_with_what_it_may_be():
    with pytest.raises(errors.UnsupportedError, match=r"statistic .*'median'.*'p10'"):
        mnv4_deploy.profile("m.onnx", statistic="median")


def test_arguments_are_taken_as_they_are_written():
    request = record(
        ExportRequest, model="conv-s", out="there", formats="tflite", mean=[0, 0.5, 1], int8=True
    )
    assert (request.formats, request.out) == (("tflite",), pathlib.Path("there"))
    assert request.mean == (0.0, 0.5, 1.0)
    given = given_inputs(
        {"n": 16000, "flag": True, "ids": [1, 2], "x": np.ones((2, 3), np.int8), "t": "0.5,1"}
    )
    assert {name: value.text for name, value in given.items()} == {
        "n": "16000",
        "flag": "1",
        "ids": "1,2",
        "x": "",
        "t": "0.5,1",
    }
    array = fitted("x", given["x"], (2, 3), "int8")
    assert array.dtype == np.int8 and array.tolist() == [[1, 1, 1], [1, 1, 1]]


def test_inputs_reach_the_runtime(tmp_path):
    """The sum of what is given is what the file computes, whichever way it is given."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Range", ["zero", "n", "one"], ["y"])],
        "net",
        [helper.make_tensor_value_info("n", TensorProto.INT64, [])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, ["k"])],
        [helper.make_tensor(k, TensorProto.INT64, [], [v]) for k, v in (("zero", 0), ("one", 1))],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9),
        tmp_path / "range.onnx",
    )
    result = mnv4_deploy.profile(
        tmp_path / "range.onnx", inputs={"n": 12}, machine="none", runs=2, warmup=0
    )
    assert (12,) in {layer.output_shape for layer in result.layers}


def test_version_is_the_packages():
    from importlib import metadata

    assert mnv4_deploy.__version__ == metadata.version("mnv4-deploy")
