"""drift on the agent of this machine: another process with nothing but NumPy and a runtime."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mnv4_deploy.cli import app as cli
from tests.drift.classifiers import make_images
from tests.drift.int8_classifiers import make_int8_onnx, make_int8_tflite

IMAGES = 400
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
    few = ("--images", 100, "--layer-images", 6)
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


def finished(out):
    return len(list(out.rglob("*.npz")))


def interrupted(arguments, tmp_path, shards, kill):
    """The command in a process of its own, where ``kill`` gets the process after ``shards``."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mnv4_deploy", *arguments],
        env={**os.environ, "MNV4_DEPLOY_CACHE": str(tmp_path / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while finished(tmp_path / "out") < shards:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    kill(process)
    printed, logged = process.communicate(timeout=120)
    assert printed == ""
    return process.returncode, logged


def kill_agent(process):
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in children:
        os.kill(int(pid), signal.SIGKILL)


def test_a_run_that_lost_its_device_and_was_then_killed_goes_on(run, files, images, tmp_path):
    out = tmp_path / "out"
    arguments = ("--device", "local", "--layer-images", 0, "--out", out)
    given = command(files, images, *arguments)
    code, logged = interrupted(given, tmp_path, 3, kill_agent)
    assert code == 4
    assert logged.count("\n") == 1 and "goes on from them" in logged
    kept = finished(out)
    code, _ = interrupted(given, tmp_path, kept + 3, subprocess.Popen.kill)
    assert code == -signal.SIGKILL
    assert kept + 3 <= finished(out)
    again = run(*arguments)
    assert 8 * (kept + 3) <= again["run"]["resumed_images"] < IMAGES
    assert figures(again) == figures(run("--layer-images", 0, "--workers", 2))
