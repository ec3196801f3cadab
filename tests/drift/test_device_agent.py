"""drift on the agent of this machine: another process with nothing but NumPy and a runtime."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mnv4_deploy.cli import app as cli
from tests.drift.classifiers import make_images
from tests.drift.gated_drift import kept, stopped
from tests.drift.int8_classifiers import make_int8_onnx, make_int8_tflite

IMAGES = 80
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="agents need Linux")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("files")
    return {
        "--reference": make_int8_onnx(root / "r.onnx"),
        "--candidate": make_int8_tflite(root / "c.tflite"),
    }


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("images"), IMAGES)[0].parent


def command(files, images, *arguments):
    given = [part for pair in {**files, "--data": images}.items() for part in pair]
    return [str(part) for part in ("drift", *given, *arguments, "--json")]


@pytest.fixture
def run(capsys, files, images, monkeypatch, tmp_path):
    monkeypatch.setenv("MNV4_DEPLOY_CACHE", str(tmp_path / "cache"))

    def run_(*arguments):
        with pytest.raises(SystemExit) as exit_:
            cli.main(command(files, images, *arguments))
        printed, logged = capsys.readouterr()
        assert (exit_.value.code or 0, logged) == (0, "")
        return json.loads(printed)

    return run_


def figures(document):
    return {key: document[key] for key in ("metrics", "output", "layers", "skipped")}


def test_int8_files_give_the_same_bits_there(run):
    few = ("--images", 40, "--layer-images", 6)
    there = run("--device", "local", *few)
    assert figures(there) == figures(run("--workers", 1, *few))
    assert {entry["role"]: entry["differing"] for entry in there["parity"]} == {
        "reference": 0,
        "candidate": 0,
    }
    # The two are not the same network, so equal figures are not those of equal outputs.
    assert there["metrics"]["sqnr_db"] < 20
    used = there["device"]["used_runtimes"]
    assert [text.split()[0] for text in used] == ["onnxruntime", "ai-edge-litert"]
    versions = there["device"]["runtimes"]
    assert used == [f"{name} {versions[name]}" for name in ("onnxruntime", "ai-edge-litert")]


def kill_agent(process):
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in children:
        os.kill(int(pid), signal.SIGKILL)


def test_a_run_that_lost_its_device_and_was_then_killed_goes_on(run, files, images, tmp_path):
    out = tmp_path / "out"
    arguments = ("--device", "local", "--layer-images", 0, "--out", out)
    given = command(files, images, *arguments)
    code, logged = stopped(given, tmp_path, out, 3, kill_agent)
    assert code == 4
    assert logged.count("\n") == 1 and "goes on from them" in logged
    shards = kept(out)
    code, _ = stopped(given, tmp_path, out, shards + 3, subprocess.Popen.kill)
    assert code == -signal.SIGKILL
    assert kept(out) == shards + 3
    again = run(*arguments)
    assert again["run"]["resumed_images"] == 8 * (shards + 3)
    assert figures(again) == figures(run("--layer-images", 0, "--workers", 2))
