"""What commands leave on the machine besides what was asked for, and what they say over the
network: nothing, also when they are killed."""

import signal
import subprocess
import sys
from functools import partial

import pytest

pytest.importorskip("onnx")
pytest.importorskip("ai_edge_litert")

from tests.test_cli_drift import A_COLOUR, _pair, files, pictures  # noqa: F401
from tests.time_limit import wait_until
from tests.traces import TELEMETRY, command, environment, families, left, run_traced


def _commands(files, pictures, out):  # noqa: F811
    right, blind = files["right"], files["blind"]
    machine = ("--runs", "3", "--machine", "none")
    return {
        "drift": ("drift", *_pair(files), "--data", pictures, *A_COLOUR, "--out", out),
        "inspect": ("inspect", right),
        "profile": ("profile", right, *machine, "--out", out),
        "compare": ("compare", right, blind, "--runs", "3"),
        "parity": ("parity", right, "--device", "local"),
        "roofline": ("roofline", "--models", "conv-s", "--out", out),
    }


# To look for a cache of users and groups on this machine; nothing else may be asked.
ASKED = {"AF_UNIX"}


@pytest.mark.parametrize("name", ["drift", "inspect", "profile", "compare", "parity", "roofline"])
def test_command_leaves_nothing_and_asks_no_network(name, files, pictures, tmp_path):  # noqa: F811
    done = run_traced(tmp_path, *_commands(files, pictures, tmp_path / "out")[name])
    assert done.returncode == 0, done.stderr
    assert left(tmp_path) == []
    assert families(tmp_path) <= ASKED


def test_export_leaves_nothing_and_asks_no_network(hybrid_files):
    folder = hybrid_files.folder
    assert left(folder) == []
    assert families(folder) <= ASKED


def test_libraries_tell_their_vendors_nothing_unless_the_user_says_so(tmp_path):
    ask = f"import os, mnv4_deploy; print([os.environ[v] for v in {TELEMETRY!r}])"
    variables = environment(tmp_path)
    for given, expected in (({}, ["1", "1"]), (dict.fromkeys(TELEMETRY, "0"), ["0", "0"])):
        done = subprocess.run(
            [sys.executable, "-c", ask],
            env={**variables, **given},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == str(expected)


def test_what_a_killed_command_left_is_removed_by_a_later_one(files, tmp_path):  # noqa: F811
    variables = environment(tmp_path)
    temporary = tmp_path / "temporary"
    theirs = temporary / "mnv4-deploy-thesis"
    theirs.mkdir()
    (theirs / "chapter1.tex").write_text("years of work")
    profile = command("profile", files["right"], "--runs", "10000", "--machine", "none")
    profile += ["--max-seconds", "100"]
    process = subprocess.Popen(profile, env=variables, stdout=subprocess.DEVNULL)
    at_work = "mnv4-deploy-*/mnv4-deploy-*/*"  # the child that measures, in a folder of its own
    wait_until(lambda: len(list(temporary.glob(at_work))) >= 2 or process.poll() is not None)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(list(temporary.iterdir())) == 2
    inspect = partial(
        subprocess.run,
        command("inspect", files["right"]),
        env=variables,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    # The child is killed by the system, which may take it a moment.
    wait_until(lambda: inspect() and len(list(temporary.iterdir())) == 1)
    assert [path.name for path in temporary.iterdir()] == ["mnv4-deploy-thesis"]
    assert (theirs / "chapter1.tex").exists()
