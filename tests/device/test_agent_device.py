"""The agent as a process of this machine: what it answers, refuses, survives and leaves."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from mnv4_deploy.device.device import Device
from mnv4_deploy.device.open import open_device
from mnv4_deploy.errors import (
    InputError,
    ModelFileError,
    OutputError,
    ToolchainError,
    UnsupportedError,
)
from mnv4_deploy.profiles.machine.cpu import read_cpu
from mnv4_deploy.profiles.records.device import DeviceOptions
from mnv4_deploy.profiles.records.profile import MeasureRequest
from tests.device.old_pythons import OLDEST, pythons
from tests.device.small_models import (
    LENGTH,
    X,
    Y,
    onnx_file,
    onnx_with_weights_beside,
    tflite_file,
)
from tests.time_limit import PATIENCE_S, wait_until

pytestmark = pytest.mark.usefixtures("no_child", "patient")


@pytest.fixture(scope="module")
def temporary(tmp_path_factory):
    """The folder in which private folders are made."""
    folder = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def device(temporary):
    with open_device("local") as found:
        yield found
    assert not list(temporary.glob("mnv4-deploy-*"))


def children(folder: Path) -> list[int]:
    """Processes whose command line names something in ``folder``."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in command:
            found.append(int(entry.name))
    return found


def tensor_child(folder: Path) -> int:
    (pid,) = [
        p for p in children(folder) if b"tensor_process" in Path(f"/proc/{p}/cmdline").read_bytes()
    ]
    return pid


def test_facts_are_those_of_this_machine(device: Device) -> None:
    facts = device.facts
    assert facts.cpu == read_cpu().model and facts.isa == read_cpu().isa
    assert facts.architecture == os.uname().machine
    assert facts.runtimes.keys() <= {"ai-edge-litert", "tflite-runtime", "onnxruntime"}
    assert facts.emulator == "" and facts.free_bytes > 0 and facts.memory_bytes > 0
    assert len(facts.fingerprint) == 16
    assert device.state() == device.state() or device.state().temperatures_c


def test_private_folder_is_for_its_user_alone(device: Device, temporary: Path) -> None:
    del device
    (folder,) = temporary.glob("mnv4-deploy-*")
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("write", [tflite_file, onnx_file])
def test_tensors_through_a_session(device: Device, tmp_path: Path, write) -> None:
    session = device.open(write(tmp_path / "net.model"))
    assert [tuple(i.shape) for i in session.inputs] == [(1, 16)]
    for _ in range(2):
        (y,) = session.run([X])
        np.testing.assert_array_equal(y, Y)
    session.close()
    session.close()
    with pytest.raises(ToolchainError, match="closed"):
        session.run([X])


def test_intermediate_tensors(device: Device, tmp_path: Path) -> None:
    """Tensor 0 is x, tensor k is (k + 1) * x."""
    session = device.open(tflite_file(tmp_path / "net.tflite"), [1, LENGTH])
    first, last = session.run([X])
    np.testing.assert_array_equal(first, X + X)
    np.testing.assert_array_equal(last, Y)
    session.close()


def test_two_sessions_at_a_time(device: Device, tmp_path: Path) -> None:
    one = device.open(tflite_file(tmp_path / "one.tflite", 1))
    other = device.open(onnx_file(tmp_path / "other.onnx", 2))
    np.testing.assert_array_equal(one.run([X])[0], X + X)
    np.testing.assert_array_equal(other.run([X])[0], X + X + X)
    one.close()
    np.testing.assert_array_equal(other.run([X])[0], X + X + X)
    other.close()


@pytest.mark.parametrize("location", ["w.bin", "weights/w 1;$(touch hacked).bin"])
def test_external_weights_go_along(device: Device, tmp_path: Path, location: str) -> None:
    (tmp_path / "weights").mkdir()
    session = device.open(onnx_with_weights_beside(tmp_path / "net.onnx", location))
    (y,) = session.run([X])
    np.testing.assert_array_equal(y, X + np.arange(1, 17, dtype=np.float32))
    session.close()


@pytest.mark.parametrize("location", ["../w.bin", "/etc/passwd", "a/../../w.bin"])
def test_weights_outside_the_folder_are_not_read(
    device: Device, tmp_path: Path, location: str
) -> None:
    onnx = pytest.importorskip("onnx")
    path = onnx_with_weights_beside(tmp_path / "net.onnx", "w.bin")
    model = onnx.load(str(path), load_external_data=False)
    model.graph.initializer[0].external_data[0].value = location
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match="outside its folder"):
        device.open(path)


def test_missing_weights_are_named(device: Device, tmp_path: Path) -> None:
    path = onnx_with_weights_beside(tmp_path / "net.onnx", "w.bin")
    (tmp_path / "w.bin").unlink()
    with pytest.raises(ModelFileError, match=r"w\.bin"):
        device.open(path)


def test_files_with_the_same_content_are_sent_once(
    device: Device, tmp_path: Path, temporary: Path
) -> None:
    path = tflite_file(tmp_path / "a.tflite", 7)
    copy = tmp_path / "b.tflite"
    copy.write_bytes(path.read_bytes())
    before = len(list(temporary.glob("*/files/*/*")))
    timed = device.time(
        [MeasureRequest(str(p), runs=3, max_seconds=0.1) for p in (path, copy, path)]
    )
    assert [t.profile.path for t in timed] == [str(path), str(copy), str(path)]
    device.open(path).close()
    assert len(list(temporary.glob("*/files/*/*"))) == before + 1


@pytest.mark.parametrize("write", [tflite_file, onnx_file])
def test_times_have_every_operator(device: Device, tmp_path: Path, write) -> None:
    path = write(tmp_path / "net.model")
    (timed,) = device.time([MeasureRequest(str(path), runs=6, max_seconds=PATIENCE_S)])
    assert timed.profile.path == str(path)
    assert sum("add" in op.tag.lower() for op in timed.profile.ops) == LENGTH
    assert sum(map(len, timed.rounds_us)) == 6
    assert all(us > 0 for burst in timed.rounds_us for us in burst)


def test_errors_name_the_file_here_and_keep_their_class(device: Device, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.tflite"
    damaged.write_bytes(tflite_file(tmp_path / "x.tflite").read_bytes()[:200])
    for attempt in (
        lambda: device.open(damaged),
        lambda: device.time([MeasureRequest(str(damaged))]),
    ):
        with pytest.raises(ModelFileError) as caught:
            attempt()
        assert str(damaged) in str(caught.value)
        assert "mnv4-deploy-" not in str(caught.value)
    with pytest.raises(UnsupportedError, match="threads are more than"):
        device.time([MeasureRequest(str(tflite_file(tmp_path / "y.tflite")), threads=4096)])
    with pytest.raises(ModelFileError, match="does not exist"):
        device.open(tmp_path / "missing.tflite")
    with pytest.raises(ModelFileError, match="is empty"):
        (tmp_path / "empty.tflite").touch()
        device.open(tmp_path / "empty.tflite")


def test_wrong_tensors_are_refused_and_the_session_goes_on(device: Device, tmp_path) -> None:
    session = device.open(tflite_file(tmp_path / "net.tflite"))
    for wrong in ([], [X, X], [X.astype(np.int8)], [X[:, :3]]):
        with pytest.raises(InputError):
            session.run(wrong)
    np.testing.assert_array_equal(session.run([X])[0], Y)
    session.close()


@pytest.mark.parametrize(
    ("number", "message"), [(signal.SIGSEGV, "SIGSEGV"), (signal.SIGKILL, "memory")]
)
def test_crash_of_a_runtime_is_the_files_and_the_agent_goes_on(
    device: Device, tmp_path: Path, temporary: Path, number: int, message: str
) -> None:
    path = tflite_file(tmp_path / "net.tflite")
    session = device.open(path)
    os.kill(tensor_child(temporary), number)
    with pytest.raises(ModelFileError, match=message) as caught:
        session.run([X])
    assert str(path) in str(caught.value)
    session.close()
    again = device.open(path)
    np.testing.assert_array_equal(again.run([X])[0], Y)
    again.close()


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    options = DeviceOptions(folder=str(tmp_path / "missing"))
    with pytest.raises(OutputError, match=r"missing.*--device-folder"):
        open_device("local", options)


def test_named_folder_is_used_and_left_empty(tmp_path: Path) -> None:
    with open_device("local", DeviceOptions(folder=str(tmp_path))):
        assert len(list(tmp_path.iterdir())) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_end_it_and_leave_nothing(tmp_path: Path, number: int) -> None:
    device = open_device("local", DeviceOptions(folder=str(tmp_path)))
    session = device.open(tflite_file(tmp_path.parent / "net.tflite"))
    (agent,) = [p for p in children(tmp_path) if p != tensor_child(tmp_path)]
    os.kill(agent, number)
    with pytest.raises(ToolchainError, match="connection to local was lost"):
        while True:
            session.run([X])
    session.close()
    device.close()
    assert not list(tmp_path.iterdir())
    wait_until(lambda: not children(tmp_path))


def test_killed_agent_takes_its_children_along_and_the_next_cleans_up(tmp_path: Path) -> None:
    options = DeviceOptions(folder=str(tmp_path))
    device = open_device("local", options)
    session = device.open(tflite_file(tmp_path.parent / "net.tflite"))
    (agent,) = [p for p in children(tmp_path) if p != tensor_child(tmp_path)]
    os.kill(agent, signal.SIGKILL)
    with pytest.raises(ToolchainError, match="lost"):
        session.run([X])
    device.close()
    wait_until(lambda: not children(tmp_path))
    stranger = tmp_path / "mnv4-deploy-stranger"
    stranger.mkdir()
    with open_device("local", options):
        assert len(list(tmp_path.iterdir())) == 2
    assert list(tmp_path.iterdir()) == [stranger]


@pytest.mark.parametrize("version", [(2, 7), (3, 6), (3, 8), (3, 9)])
def test_older_pythons_are_refused_by_version(tmp_path: Path, version: tuple[int, int]) -> None:
    found = pythons(version)
    if not found:
        pytest.skip(f"needs Python {version}")
    with pytest.raises(UnsupportedError, match=r"Python 3\.10 or newer is needed .*another"):
        open_device("local", DeviceOptions(python=found[0], folder=str(tmp_path)))
    assert not list(tmp_path.iterdir())


def test_oldest_python_runs_the_agent_and_says_that_it_has_no_runtime(tmp_path: Path) -> None:
    found = pythons(OLDEST)
    if not found:
        pytest.skip("needs Python 3.10")
    with open_device("local", DeviceOptions(python=found[0], folder=str(tmp_path))) as device:
        if device.facts.runtimes:
            pytest.skip("this Python has runtimes")
        path = tflite_file(tmp_path.parent / "net.tflite")
        for attempt in (
            lambda: device.open(path),
            lambda: device.time([MeasureRequest(str(path))]),
            lambda: device.machine(1),
        ):
            with pytest.raises(
                UnsupportedError, match=r"neither .* nor onnxruntime: give --setup"
            ):
                attempt()


def test_no_such_python() -> None:
    with pytest.raises(InputError, match="no-such-python"):
        open_device("local", DeviceOptions(python="/no-such-python"))
