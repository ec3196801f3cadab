"""What commands leave on the machine besides what was asked for, and what they say over the
network: nothing, also when they are killed."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("onnx")
pytest.importorskip("ai_edge_litert")

from tests.test_cli_drift import A_COLOUR, _pair, files, pictures  # noqa: F401

STRACE = shutil.which("strace")
# What is kept on purpose: measured ceilings, and matplotlib's list of fonts.
_KEPT = re.compile(r"\.(cache|config)(/(mnv4-deploy|matplotlib)(/.*)?)?")
_VARIABLES = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY")


def _environment(tmp_path):
    """A user's, with a home and a temporary folder of its own."""
    places = {"HOME": tmp_path / "home", "TMPDIR": tmp_path / "temporary"}
    for folder in places.values():
        folder.mkdir(exist_ok=True)
    dropped = {"XDG_CACHE_HOME", "MNV4_DEPLOY_CACHE", "TORCHINDUCTOR_CACHE_DIR", *_VARIABLES}
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**kept, **{name: str(folder) for name, folder in places.items()}}


def _left(tmp_path):
    found = []
    for name in ("home", "temporary"):
        base = tmp_path / name
        found += [f"{name}/{path.relative_to(base)}" for path in base.rglob("*")]
    return sorted(path for path in found if not _KEPT.fullmatch(path.removeprefix("home/")))


def _command(*arguments):
    return [sys.executable, "-m", "mnv4_deploy", *map(str, arguments)]


def _traced(command, log):
    """``command`` under strace where that is there and may trace, else as it is."""
    if STRACE is None:
        return command
    strace = [STRACE, "-f", "--seccomp-bpf", "-qq", "-e", "trace=network", "-o", str(log)]
    may = subprocess.run([*strace, "true"], capture_output=True, check=False).returncode == 0
    return [*strace, *command] if may else command


def _commands(files, pictures, out):  # noqa: F811
    right, blind = files["right"], files["blind"]
    small = ("--weights", "random:0", "--num-classes", "4", "--size", "32")
    few = ("--calib-images", "16", "--eval-images", "16", "--format", "onnx")
    machine = ("--runs", "3", "--machine", "none")
    return {
        "export": ("export", "--model", "conv-s-035", *small, "--int8", *few, "--out", out),
        "drift": ("drift", *_pair(files), "--data", pictures, *A_COLOUR, "--out", out),
        "inspect": ("inspect", right),
        "profile": ("profile", right, *machine, "--out", out),
        "compare": ("compare", right, blind, "--runs", "3"),
        "parity": ("parity", right, "--device", "local"),
        "roofline": ("roofline", "--models", "conv-s", "--out", out),
    }


@pytest.mark.parametrize(
    "name", ["export", "drift", "inspect", "profile", "compare", "parity", "roofline"]
)
def test_command_leaves_nothing_and_asks_no_network(name, files, pictures, tmp_path):  # noqa: F811
    command = _command(*_commands(files, pictures, tmp_path / "out")[name])
    log = tmp_path / "network"
    done = subprocess.run(
        _traced(command, log),
        env=_environment(tmp_path),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert _left(tmp_path) == []
    if log.exists():
        # To look for a cache of users and groups on this machine; nothing else may be asked.
        assert set(re.findall(r"\bAF_\w+", log.read_text())) <= {"AF_UNIX"}


def test_libraries_tell_their_vendors_nothing_unless_the_user_says_so(tmp_path):
    ask = f"import os, mnv4_deploy; print([os.environ[v] for v in {_VARIABLES!r}])"
    environment = _environment(tmp_path)
    for given, expected in (({}, ["1", "1"]), (dict.fromkeys(_VARIABLES, "0"), ["0", "0"])):
        done = subprocess.run(
            [sys.executable, "-c", ask],
            env={**environment, **given},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == str(expected)


def test_what_a_killed_command_left_is_removed_by_a_later_one(files, tmp_path):  # noqa: F811
    environment = _environment(tmp_path)
    temporary = tmp_path / "temporary"
    theirs = temporary / "mnv4-deploy-thesis"
    theirs.mkdir()
    (theirs / "chapter1.tex").write_text("years of work")
    command = _command("profile", files["right"], "--runs", "10000", "--machine", "none")
    command += ["--max-seconds", "100"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    # Until the child that measures is at work in a folder of its own.
    while len(list(temporary.glob("mnv4-deploy-*/mnv4-deploy-*/*"))) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(list(temporary.iterdir())) == 2
    # The child is killed by the system, which may take it a moment.
    while len(list(temporary.iterdir())) > 1:
        assert time.monotonic() < deadline
        subprocess.run(
            _command("inspect", files["right"]),
            env=environment,
            stdout=subprocess.DEVNULL,
            check=True,
        )
    assert [path.name for path in temporary.iterdir()] == ["mnv4-deploy-thesis"]
    assert (theirs / "chapter1.tex").exists()
