"""What the commands print, to people and to programs, and how little the first word takes."""

import importlib.metadata
import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mnv4_deploy.cli import app as cli
from mnv4_deploy.errors import ToolchainError

pytestmark = pytest.mark.usefixtures("no_child")

MAX_MODULES = 350


def _command(*arguments, **options):
    command = [sys.executable, "-m", "mnv4_deploy", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    """y = x w + b, where b's name tries to be markup."""
    path = tmp_path_factory.mktemp("onnx") / "linear.onnx"
    value = helper.make_tensor_value_info
    weights = {"w": np.ones((4, 2), np.float32), "[bold]b[/]": np.zeros(2, np.float32)}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["p"], name="product"),
            helper.make_node("Add", ["p", "[bold]b[/]"], ["[red]y[/]"], name="sum"),
        ],
        "net",
        [value("x", TensorProto.FLOAT, [1, 4])],
        [value("[red]y[/]", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(data, name) for name, data in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("arguments", [["--help"], ["export", "--help"], []])
def test_help_imports_nothing_heavy(arguments):
    program = (
        "import sys\n"
        "from mnv4_deploy.cli import app\n"
        "try: app.main(sys.argv[1:])\n"
        "except SystemExit: print('\\nimported', *sys.modules)\n"
    )
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    usage, _, imported = done.stdout.rpartition("\nimported ")
    assert "Usage" in usage + done.stderr
    assert "mnv4_deploy.cli.app" in imported.split()
    assert not {"torch", "numpy", "onnx", "onnxruntime", "PIL"} & set(imported.split())
    # It takes 0.2 s as long as it imports no more; NumPy alone would be 140 modules.
    assert len(imported.split()) < MAX_MODULES


def test_the_version_is_that_of_the_package(run):
    version = importlib.metadata.version("mnv4-deploy")
    assert run("--version") == (0, f"mnv4-deploy {version}\n", "")


def test_help_is_whole_at_80_columns(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, text, _ = run("-h")
    assert (code, run("--help")[1]) == (0, text)
    assert "..." not in text.partition("Commands:")[2]
    assert max(map(len, text.splitlines())) <= 80


def test_inspect_as_json(run, linear):
    code, out, err = run("inspect", linear, "--json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert facts["schema_version"] == 1
    assert facts["format"] == "onnx"
    assert facts["size_bytes"] == linear.stat().st_size
    assert facts["op_histogram"] == {"MatMul": 1, "Add": 1}
    assert facts["weight_bytes_by_dtype"] == {"float32": 40}
    (source,) = facts["inputs"]
    assert (source["name"], source["dtype"], source["shape"]) == ("x", "float32", [1, 4])
    assert [op["kind"] for op in facts["operators"]] == ["MatMul", "Add"]
    assert facts["partitions"] is None


def test_inspect_for_people_shows_names_as_they_are(run, linear):
    code, out, err = run("inspect", linear)
    assert (code, err) == (0, "")
    assert "[red]y[/]" in out
    assert "MatMul" in out


def test_output_survives_a_terminal_without_unicode(linear):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    for arguments in (["inspect", linear], ["inspect", linear, "--json"], ["--help"]):
        done = _command(*arguments, env=environment)
        assert done.returncode == 0, done.stderr


def test_messages_are_one_line_whatever_a_library_said(run, monkeypatch, linear):
    from mnv4_deploy.profiles.inspection import inspect as inspection

    def fail(_, **_options):
        raise ToolchainError("It failed (line one\n  line two).")

    monkeypatch.setattr(inspection, "inspect_file", fail)
    assert run("inspect", linear) == (4, "", "mnv4-deploy: It failed (line one line two).\n")


def test_a_bug_shows_its_traceback(monkeypatch, linear):
    from mnv4_deploy.profiles.inspection import inspect as inspection

    monkeypatch.setattr(inspection, "inspect_file", lambda _, **_options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["inspect", str(linear)])


def test_out_of_memory(run, monkeypatch, linear):
    from mnv4_deploy.profiles.inspection import inspect as inspection

    def fail(_, **_options):
        raise MemoryError

    monkeypatch.setattr(inspection, "inspect_file", fail)
    code, out, err = run("inspect", linear)
    assert (code, out) == (4, "")
    assert "out of memory" in err
