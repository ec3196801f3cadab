"""The main command: how loud it is, how it fails, what its help shows, and missing extras."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from mnv4_deploy.cli import app as cli
from mnv4_deploy.cli.export import named_model
from mnv4_deploy.cli.help import group_of
from mnv4_deploy.errors import ToolchainError, UnsupportedError
from mnv4_deploy.streams import LOG
from tests.command import run_command

onnx = pytest.importorskip("onnx")

pytestmark = pytest.mark.usefixtures("no_child")

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
COMMANDS: dict[str, Any] = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]


@pytest.fixture
def run(capfd):
    return partial(run_command, capfd)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """An .onnx file of many operators, so that what is printed of it fills any pipe."""
    from onnx import TensorProto, helper, numpy_helper

    count = 3000
    nodes = [
        helper.make_node("Relu", [f"x{i}"], [f"x{i + 1}"], name="n" * 50 + str(i))
        for i in range(count)
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info(f"x{count}", TensorProto.FLOAT, [1])],
        [numpy_helper.from_array(np.ones(1, np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    path = tmp_path_factory.mktemp("main") / "long.onnx"
    onnx.save(model, path)
    return path


def test_a_model_is_named_once_by_position_or_option():
    assert named_model("hybrid-m", None) == named_model(None, "hybrid-m") == "hybrid-m"
    assert named_model("hybrid-m", "hybrid-m") == "hybrid-m"
    for both in (("hybrid-m", "conv-s"), (None, None)):
        with pytest.raises(UnsupportedError):
            named_model(*both)


@pytest.mark.parametrize("words", [["no-such"], ["--model", "no-such"]])
def test_export_looks_for_the_model_that_is_named(run, words, tmp_path):
    code, out, err = run("export", *words, "--out", tmp_path / "out")
    assert (code, out) == (2, "") and "no-such" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["--json"], []])
def test_nobody_reads_any_more(file, arguments):
    """The reader is gone before the first word, as `head -1` is after the first line."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "mnv4_deploy", "inspect", str(file), *arguments]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_errors_are_json_too_where_it_is_asked_for(run, tmp_path):
    lost = tmp_path / "lost.onnx"
    code, out, err = run("inspect", lost, "--json")
    error = json.loads(out)["error"]
    assert code == error["exit_code"] == 2
    assert err == f"mnv4-deploy: {error['message']}\n" and str(lost) in err
    assert run("inspect", lost)[1] == ""


def test_errors_of_usage_are_json_too(run):
    code, out, err = run("inspect", "x.onnx", "--json", "--no-such")
    error = json.loads(out)["error"]
    assert code == error["exit_code"] == 2
    assert "--no-such" in error["message"] and error["message"] in err


def test_what_stands_behind_two_dashes_is_no_option(run):
    code, out, _ = run("inspect", "--", "--json")
    assert (code, out) == (2, "")


def test_verbose_shows_where_an_error_came_from(run, monkeypatch, file):
    from mnv4_deploy.profiles.inspection import inspect as inspection

    def fail(_, **_options):
        raise ToolchainError("It failed.") from ZeroDivisionError("deep down")

    monkeypatch.setattr(inspection, "inspect_file", fail)
    code, out, err = run("-v", "inspect", file)
    assert (code, out) == (4, "")
    assert "Traceback" in err and "deep down" in err
    assert err.endswith("mnv4-deploy: It failed.\n")
    assert run("inspect", file)[2] == "mnv4-deploy: It failed.\n"


def _noted(monkeypatch):
    """Let ``roofline`` have something to say."""
    from mnv4_deploy.pipelines import ridge_sweep

    def sweep(_models, _point, progress, **_options):
        with progress.stage("Count"):
            progress.note("something odd")
        raise ToolchainError("It failed.")

    monkeypatch.setattr(ridge_sweep, "sweep", sweep)


def test_how_loud_it_is(run, monkeypatch):
    _noted(monkeypatch)
    assert run("-q", "roofline")[2] == "mnv4-deploy: It failed.\n"
    assert "something odd" in run("roofline")[2]
    assert "something odd" in run("-v", "roofline")[2]
    code, _, err = run("-q", "-v", "roofline")
    assert code == 2 and "contradict" in err


def test_a_log_is_added_to_and_closed(run, monkeypatch, tmp_path):
    _noted(monkeypatch)
    path = tmp_path / "log.txt"
    path.write_text("earlier\n")
    for _ in range(2):
        code, _, err = run("-q", "--log", path, "roofline")
        assert (code, err) == (4, "mnv4-deploy: It failed.\n")
    text = path.read_text()
    assert text.startswith("earlier\n")
    for said in ("something odd", "It failed", "Traceback"):
        assert text.count(said) >= 2
    assert str(path) not in [getattr(h, "baseFilename", "") for h in LOG.handlers]
    run("roofline")
    assert path.read_text() == text


def test_a_log_that_cannot_be_written(run, tmp_path):
    code, out, err = run("--log", tmp_path, "models")
    assert (code, out) == (2, "") and "--log" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_its_group(command):
    context = COMMANDS[command].make_context(command, ["--help"], resilient_parsing=True)
    text = COMMANDS[command].get_help(context)
    for parameter in COMMANDS[command].get_params(context):
        section = re.search(rf"^{group_of(parameter)}:\n(.*?)(\n\n|\Z)", text, re.M | re.S)
        assert section is not None
        assert (parameter.metavar or parameter.opts[-1]) in section[1]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell, tmp_path):
    """What the shell's script asks for while a word is typed."""
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "_MNV4_DEPLOY_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": "mnv4-deploy pro",
        "COMP_CWORD": "1",
        "_TYPER_COMPLETE_ARGS": "mnv4-deploy pro",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    program = (
        "import sys; sys.argv[0] = 'mnv4-deploy'\nfrom mnv4_deploy.cli.app import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert "profile" in done.stdout and "export" not in done.stdout
    assert done.stderr == ""


# Extras that are not installed.

_LIBRARIES = (
    *("ai_edge_litert", "ai_edge_quantizer", "distributed", "google", "huggingface_hub"),
    *("jinja2", "litert_torch", "llvmlite", "markupsafe", "matplotlib", "onnx", "onnxruntime"),
    *("onnxscript", "onnxsim", "plotly", "safetensors", "tflite_runtime", "torch"),
)
_BARE = f"""
import importlib.util, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {_LIBRARIES!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: (
    None if name.partition(".")[0] in {_LIBRARIES!r} else find(name, *rest))
"""


def _brought_by(extra: str) -> str:
    """The requirements of an extra, with those of the extras that it names."""
    text = " ".join(PROJECT["optional-dependencies"][extra])
    own = re.findall(r"mnv4-deploy\[([\w,]+)\]", text)
    return " ".join([text, *(_brought_by(e) for names in own for e in names.split(","))])


@pytest.mark.parametrize(
    ("arguments", "library"),
    [
        (("export", "hybrid-m", "--out", "out"), None),
        (("inspect", "m.onnx"), "onnx"),
        (("inspect", "m.tflite"), "ai-edge-litert"),
        (("profile", "m.onnx", "--machine", "none"), "onnx"),
        (("profile", "m.tflite", "--machine", "none"), "ai-edge-litert"),
        (("profile", "m.onnx"), None),
        (("profile", "m.tflite"), None),
        (("compare", "m.onnx", "m.onnx"), "onnx"),
        (("compare", "m.tflite", "m.tflite"), "ai-edge-litert"),
        (("drift", "--reference", "m.onnx", "--candidate", "m.onnx"), None),
        (("drift", "--reference", "m.tflite", "--candidate", "m.tflite"), None),
        (("drift", "--reference", "hybrid-m", "--candidate", "m.tflite"), None),
        (("parity", "m.onnx", "--device", "local"), None),
        (("parity", "m.tflite", "--device", "local"), None),
        (("roofline",), None),
        (("roofline", "--out", "sweep"), None),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_a_base_install_says_which_extra_is_missing(arguments, library, tmp_path, file):
    (tmp_path / "m.onnx").write_bytes(file.read_bytes())
    (tmp_path / "m.tflite").write_bytes(b"\x1c\0\0\0TFL3" + bytes(64))
    (tmp_path / "sitecustomize.py").write_text(_BARE)
    root = str(Path(__file__).parents[1])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), root]),
        "MNV4_DEPLOY_CACHE": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "mnv4_deploy", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    (extra,) = re.findall(r"pip install '\.\[(\w+)\]'", done.stderr)
    named = [
        name
        for name in (
            "onnxruntime",
            "onnx",
            "ai-edge-litert",
            "torch",
            "matplotlib",
            "llvmlite",
            "safetensors",
        )
        if name in done.stderr
    ]
    assert named
    assert any(name in _brought_by(extra) for name in named)
    assert library is None or library in named
