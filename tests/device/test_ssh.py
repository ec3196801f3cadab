"""Devices over a real sshd: what they answer, and that nothing of a run is left on them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from mnv4_deploy.device.address import parse_address
from mnv4_deploy.device.linux.device import open_agent
from mnv4_deploy.device.open import open_device
from mnv4_deploy.errors import (
    MissingLibraryError,
    ModelFileError,
    OutputError,
    ToolchainError,
    UnsupportedError,
)
from mnv4_deploy.profiles.records.device import DeviceOptions
from mnv4_deploy.profiles.records.profile import MeasureRequest
from tests.device.loopback import Loopback, loopback
from tests.device.small_models import LENGTH, X, Y, onnx_file, tflite_file
from tests.time_limit import PATIENCE_S, wait_until

# Nothing in them means anything to anybody; each would do something in a shell.
HOSTILE_NAMES = (
    "$(touch hacked).tflite",
    "`touch hacked`.tflite",
    "; touch hacked ;.tflite",
    "a && touch hacked.tflite",
    "| touch hacked #.tflite",
    "'; touch hacked; '.tflite",
    '"; touch hacked; ".tflite',
    "line\ntouch hacked\n.tflite",
    "-oProxyCommand=touch hacked.tflite",
    "> hacked *.tflite",
    "ünïcödé 模型 🐧.tflite",
    "%s%n${IFS}touch${IFS}hacked.tflite",
)
# Of a word without quotes, of each kind of quotes, and of a line.
BREAKING_OUT = (HOSTILE_NAMES[2], HOSTILE_NAMES[5], HOSTILE_NAMES[6], HOSTILE_NAMES[7])


pytestmark = pytest.mark.usefixtures("patient")


@pytest.fixture(scope="module")
def board():
    with loopback() as found:
        yield found


@pytest.fixture
def clean(board: Loopback):
    board.await_nothing()
    yield board
    board.await_nothing()


def long_request(folder: Path) -> MeasureRequest:
    """Half a minute of work."""
    path = tflite_file(folder / "long.tflite", 2000)
    return MeasureRequest(str(path), runs=10_000, max_seconds=30)


def in_background(call) -> tuple[threading.Thread, list[BaseException]]:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, errors


def at_work(board: Loopback) -> list[int]:
    """The process numbers of the agent's children that have loaded a runtime."""
    found = []
    for pid, command in board.processes():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if "isolated import" in command and "litert" in Path(f"/proc/{pid}/maps").read_text():
                found.append(pid)
    return found


def await_work(board: Loopback) -> list[int]:
    """Wait until the agent has a child at work."""
    wait_until(lambda: at_work(board))
    return at_work(board)


def test_tensors_and_times(clean: Loopback, tmp_path: Path) -> None:
    with open_device(clean.address) as device:
        assert device.facts.runtimes.keys() == {"ai-edge-litert", "onnxruntime"}
        device.state()
        for path in (tflite_file(tmp_path / "n.tflite"), onnx_file(tmp_path / "n.onnx")):
            session = device.open(path)
            np.testing.assert_array_equal(session.run([X])[0], Y)
            session.close()
        (timed,) = device.time([MeasureRequest(str(path), runs=6, max_seconds=1)])
        assert sum("add" in op.tag.lower() for op in timed.profile.ops) == LENGTH


def test_device_has_a_user_of_its_own(clean: Loopback) -> None:
    with open_device(clean.address):
        (folder,) = clean.left
        assert folder.stat().st_uid == clean.uid != os.geteuid()
        assert folder.stat().st_mode & 0o777 == 0o700


def test_names_of_files_are_never_run(clean: Loopback, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for length, name in enumerate(HOSTILE_NAMES, 1):
        tflite_file(tmp_path / name, length)
    damaged = tmp_path / "$(touch hacked) damaged.tflite"
    damaged.write_bytes((tmp_path / HOSTILE_NAMES[0]).read_bytes()[:100])
    with open_device(clean.address) as device:
        requests = [MeasureRequest(name, runs=3, max_seconds=1) for name in HOSTILE_NAMES]
        for length, (timed, name) in enumerate(
            zip(device.time(requests), HOSTILE_NAMES, strict=True), 1
        ):
            assert timed.profile.path == name
            assert sum("add" in op.tag.lower() for op in timed.profile.ops) == length
        for name in BREAKING_OUT:
            session = device.open(Path(name))
            length = HOSTILE_NAMES.index(name) + 1
            np.testing.assert_allclose(session.run([X])[0], (length + 1) * X, rtol=1e-6)
            session.close()
        with pytest.raises(ModelFileError) as caught:
            device.open(damaged)
        assert str(damaged) in str(caught.value)
        assert not [
            p for p in (*clean.home.rglob("*"), *clean.temporary.rglob("*")) if "hacked" in p.name
        ]
    assert {p.name for p in tmp_path.iterdir()} == {*HOSTILE_NAMES, damaged.name}


def test_error_leaves_nothing(clean: Loopback, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), open_device(clean.address) as device:
        device.open(tflite_file(tmp_path / "n.tflite"))
        raise ZeroDivisionError


def test_killed_ssh_leaves_nothing(clean: Loopback, tmp_path: Path) -> None:
    device = open_agent(parse_address(clean.address), DeviceOptions(), print)
    thread, errors = in_background(lambda: device.time([long_request(tmp_path)]))
    await_work(clean)
    os.kill(device._connection._process.pid, signal.SIGKILL)
    thread.join(PATIENCE_S)
    (error,) = errors
    assert isinstance(error, ToolchainError)
    assert "was lost: nothing of the run is left there" in str(error)
    device.close()


def test_killed_child_is_an_error_and_leaves_nothing(clean: Loopback, tmp_path: Path) -> None:
    with open_device(clean.address) as device:
        thread, errors = in_background(lambda: device.time([long_request(tmp_path)]))
        for pid in await_work(clean):
            os.kill(pid, signal.SIGKILL)
        thread.join(PATIENCE_S)
        (error,) = errors
        assert isinstance(error, ModelFileError) and "long.tflite" in str(error)
        assert device.state() is not None


def test_closing_during_a_measurement_leaves_nothing(clean: Loopback, tmp_path: Path) -> None:
    device = open_device(clean.address)
    thread, errors = in_background(lambda: device.time([long_request(tmp_path)]))
    await_work(clean)
    device.close()
    assert not clean.left
    thread.join(PATIENCE_S)
    assert isinstance(errors[0], ToolchainError)


@pytest.mark.parametrize("to_group", [True, False])
def test_interrupt_of_the_command_leaves_nothing(
    clean: Loopback, tmp_path: Path, to_group: bool
) -> None:
    """Ctrl-C reaches the whole group, kill only the command."""
    request = long_request(tmp_path)
    code = f"""
        from mnv4_deploy.device.open import open_device
        from mnv4_deploy.profiles.records.profile import MeasureRequest
        try:
            with open_device({clean.address!r}) as device:
                device.time([MeasureRequest({request.path!r}, runs=10_000, max_seconds=30)])
        except KeyboardInterrupt:
            print("interrupted")
        """
    command = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    await_work(clean)
    if to_group:
        os.killpg(command.pid, signal.SIGINT)
    else:
        os.kill(command.pid, signal.SIGINT)
    out, err = command.communicate(timeout=PATIENCE_S)
    assert (out, command.returncode) == ("interrupted\n", 0), err
    clean.await_nothing()


def test_killed_command_leaves_nothing(clean: Loopback, tmp_path: Path) -> None:
    request = long_request(tmp_path)
    code = (
        "from mnv4_deploy.device.open import open_device\n"
        "from mnv4_deploy.profiles.records.profile import MeasureRequest\n"
        f"device = open_device({clean.address!r})\n"
        f"device.time([MeasureRequest({request.path!r}, runs=10_000, max_seconds=30)])"
    )
    command = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    await_work(clean)
    command.kill()
    command.wait()
    clean.await_nothing()


def test_line_that_goes_dead_leaves_nothing(clean: Loopback, tmp_path: Path) -> None:
    """Nothing arrives any more and nobody says so: a cable pulled out, a laptop asleep."""
    request = long_request(tmp_path)
    for silence_s in (1.0, 5.0, 30.0):  # a machine that is busy may be silent too soon by itself
        with contextlib.suppress(ToolchainError):
            device = open_agent(
                parse_address(clean.address), DeviceOptions(), lambda _: None, silence_s
            )
            thread, errors = in_background(partial(device.time, [request]))
            wait_until(lambda: at_work(clean) or not thread.is_alive())  # noqa: B023
            if thread.is_alive():
                break
            device.close()
    sessions = [pid for pid, command in clean.processes() if command.startswith("sshd: ")]
    if not sessions:
        pytest.skip("needs a session that can be stopped")
    for pid in sessions:
        os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: not clean.agents())
        assert not clean.left
    finally:
        for pid in sessions:
            os.kill(pid, signal.SIGCONT)
    thread.join(PATIENCE_S)
    assert isinstance(errors[0], ToolchainError)
    device.close()


def test_disk_without_room_for_the_agent(clean: Loopback) -> None:
    with pytest.raises(OutputError, match=r"tiny is full: name another .* --device-folder"):
        open_device(clean.address, DeviceOptions(folder=str(clean.tiny)))


def test_disk_without_room_for_the_model(clean: Loopback, tmp_path: Path) -> None:
    large = tmp_path / "large.tflite"
    large.write_bytes(tflite_file(tmp_path / "n.tflite").read_bytes() + bytes(30 << 20))
    with open_device(clean.address, DeviceOptions(folder=str(clean.small))) as device:
        with pytest.raises(
            OutputError, match=r"small on the device has 2\d MB free and 48 MB are needed.*folder"
        ):
            device.open(large)
        session = device.open(tmp_path / "n.tflite")
        np.testing.assert_array_equal(session.run([X])[0], Y)


@pytest.mark.parametrize("runtime", ["ai-edge-litert", "onnxruntime"])
def test_one_runtime(runtime: str, tmp_path: Path) -> None:
    files = {"ai-edge-litert": tflite_file, "onnxruntime": onnx_file}
    with loopback([runtime]) as board:
        with open_device(board.address) as device:
            assert device.facts.runtimes.keys() == {runtime}
            for name, write in files.items():
                path = write(tmp_path / f"{name}.model")
                if name == runtime:
                    np.testing.assert_array_equal(device.open(path).run([X])[0], Y)
                else:
                    with pytest.raises(MissingLibraryError, match=name):
                        device.open(path)
        board.await_nothing()


def test_no_runtime(tmp_path: Path) -> None:
    with loopback([]) as board:
        with open_device(board.address) as device:
            assert device.facts.runtimes == {}
            with pytest.raises(UnsupportedError, match=r"neither .* give --setup, or install one"):
                device.open(tflite_file(tmp_path / "n.tflite"))
        board.await_nothing()


def test_shell_that_greets(tmp_path: Path) -> None:
    with loopback(greeting='Welcome!\n{"kind": "hello"}\nmnv4-deploy agent 0') as board:
        with open_device(board.address) as device:
            session = device.open(tflite_file(tmp_path / "n.tflite"))
            np.testing.assert_array_equal(session.run([X])[0], Y)
        board.await_nothing()
