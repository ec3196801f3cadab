"""What goes to a device of a model and its weights: ordinary files of one folder, and no more."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from mnv4_deploy.device.android.adb import Adb
from mnv4_deploy.device.android.adb_shell import AdbShell
from mnv4_deploy.device.android.device import AndroidDevice
from mnv4_deploy.device.linux import device as agent_device
from mnv4_deploy.device.linux import files
from mnv4_deploy.device.linux.connection import Connection
from mnv4_deploy.device.linux.device import AgentDevice
from mnv4_deploy.device.linux.files import model_files
from mnv4_deploy.device.measure import measure_on
from mnv4_deploy.device.open import open_device
from mnv4_deploy.errors import ModelFileError
from mnv4_deploy.profiles.files.regular import MAX_BYTES
from mnv4_deploy.profiles.records.profile import MeasureRequest
from tests.astray import EVERYTHING, GONE, NO_FILES, OUTSIDE, SECRET, TOO_LARGE, secret_outside
from tests.device.small_models import X, Y, onnx_with_weights_beside, tflite_file
from tests.time_limit import in_time

pytestmark = pytest.mark.usefixtures("no_child")
onnx = pytest.importorskip("onnx")
WEIGHTS = np.arange(1, 17, dtype=np.float32)


@pytest.fixture(scope="module")
def temporary(tmp_path_factory):
    """The folder in which private folders are made."""
    folder = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def device(temporary):
    del temporary
    with open_device("local") as found:
        yield found


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """All file content that goes to a device."""
    found: list[bytes] = []
    tell = Connection.tell

    def watched(self, kind, body=None, *, arrays=(), payload=b""):
        found.append(payload)
        tell(self, kind, body, arrays=arrays, payload=payload)

    monkeypatch.setattr(Connection, "tell", watched)
    return found


@pytest.fixture
def nothing_leaves(sent: list[bytes], temporary: Path):
    """Assert that no word of the secret is sent or arrives."""
    yield
    assert SECRET[:40] not in b"".join(sent)
    for path in temporary.rglob("*"):
        assert not path.is_file() or SECRET[:40] not in path.read_bytes()


def model(folder: Path, location: str = "w.bin", *, named: bool = True) -> Path:
    """A model whose weights are not there yet, with as many bytes of them as the secret has."""
    folder.mkdir(exist_ok=True)
    path = onnx_with_weights_beside(folder / "net.onnx", "w.bin")
    (folder / "w.bin").unlink()
    found = onnx.load(str(path), load_external_data=False)
    found.graph.initializer[0].external_data[0].value = location
    if not named:
        found.graph.node[0].name = ""
    path.write_bytes(found.SerializeToString())
    return path


def runs(device: AgentDevice, path: Path) -> bool:
    session = device.open(path)
    (y,) = session.run([X])
    session.close()
    return bool((y == X + WEIGHTS).all())


def timed(device: AgentDevice, path: Path) -> None:
    """As profile and compare do; the file first gets names for its nodes."""
    measure_on(device, [MeasureRequest(str(path), runs=1, max_seconds=0.1)])


WAYS = {
    "open": lambda device, path: device.open(path),
    "time": lambda device, path: device.time([MeasureRequest(str(path), runs=1)]),
    "measure": timed,
}


@pytest.mark.usefixtures("nothing_leaves")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", EVERYTHING)
def test_weights_that_are_no_file_of_the_folder(
    device: AgentDevice, tmp_path: Path, sent: list[bytes], name: str, way: str
) -> None:
    path = model(tmp_path / "model")
    EVERYTHING[name](path.with_name("w.bin"))
    with in_time(), pytest.raises(ModelFileError) as caught:
        WAYS[way](device, path)
    assert "w.bin" in str(caught.value) and str(path) in str(caught.value)
    assert not any(sent)


@pytest.mark.usefixtures("nothing_leaves")
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("location", ["sub/w.bin", "../model-outside/w.bin", "{outside}/w.bin"])
@pytest.mark.parametrize("way", WAYS)
def test_folders_that_lead_out(
    device: AgentDevice, tmp_path: Path, sent: list[bytes], location: str, named: bool, way: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    outside = secret_outside(folder / "w.bin").parent
    (folder / "sub").symlink_to(outside)
    path = model(folder, location.format(outside=outside), named=named)
    with in_time(), pytest.raises(ModelFileError):
        WAYS[way](device, path)
    assert not any(sent)


@pytest.mark.usefixtures("nothing_leaves")
def test_a_copy_with_names_for_its_nodes_takes_no_link_along(
    device: AgentDevice, tmp_path: Path, sent: list[bytes]
) -> None:
    """It lies in another folder, in which a link could be a file."""
    path = model(tmp_path / "model", named=False)
    OUTSIDE["a link out"](path.with_name("w.bin"))
    with pytest.raises(ModelFileError):
        timed(device, path)
    assert not any(sent)


def test_weights_of_tensors_that_are_no_initializers(
    device: AgentDevice, tmp_path: Path, sent: list[bytes]
) -> None:
    """A Constant in a branch, and one in a function: all are looked at."""
    helper = onnx.helper
    hidden = onnx.TensorProto(name="c", dims=[4], data_type=onnx.TensorProto.FLOAT)
    hidden.data_location = onnx.TensorProto.EXTERNAL
    entry = hidden.external_data.add()
    entry.key, entry.value = "location", "w.bin"
    constant = helper.make_node("Constant", [], ["c"], value=hidden)
    inner = helper.make_graph([constant], "inner", [], [onnx.ValueInfoProto(name="c")])
    sparse = onnx.SparseTensorProto(dims=[4])
    sparse.values.CopyFrom(hidden)
    function = onnx.FunctionProto(name="f", domain="d", output=["c"], node=[constant])
    for number, change in enumerate(
        (
            lambda m: m.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=inner)),
            lambda m: m.graph.sparse_initializer.append(sparse),
            lambda m: m.functions.append(function),
        )
    ):
        folder = tmp_path / str(number)
        path = model(folder)
        found = onnx.load(str(path), load_external_data=False)
        found.graph.initializer[0].external_data[0].value = "good.bin"
        (folder / "good.bin").write_bytes(WEIGHTS.tobytes())
        change(found)
        path.write_bytes(found.SerializeToString())
        OUTSIDE["a link out"](folder / "w.bin")
        with pytest.raises(ModelFileError, match=r"w\.bin"):
            device.open(path)
    assert not any(sent)


@pytest.mark.parametrize("location", ["w.bin", "./w.bin", "short/w.bin", "deep//w.bin"])
def test_links_within_the_folder_go_as_the_files_they_are(
    device: AgentDevice, tmp_path: Path, location: str
) -> None:
    path = model(tmp_path / "model", location)
    (path.parent / "deep").mkdir()
    (path.parent / "deep" / "w.bin").write_bytes(WEIGHTS.tobytes())
    (path.parent / "short").symlink_to("deep")
    (path.parent / "w.bin").symlink_to("short/w.bin")
    assert runs(device, path)


def test_a_model_may_be_a_link_and_its_folder_is_that_of_the_link(
    device: AgentDevice, tmp_path: Path
) -> None:
    real = model(tmp_path / "blobs")
    path = tmp_path / "snapshot" / "net.onnx"
    path.parent.mkdir()
    path.symlink_to(real)
    real.with_name("w.bin").write_bytes(WEIGHTS.tobytes())
    with pytest.raises(ModelFileError):
        device.open(path)
    path.with_name("w.bin").write_bytes(WEIGHTS.tobytes())
    assert runs(device, path)
    assert runs(device, real)
    lite = tmp_path / "snapshot" / "net.tflite"
    lite.symlink_to(tflite_file(tmp_path / "blobs" / "net.tflite"))
    session = device.open(lite)
    np.testing.assert_array_equal(session.run([X])[0], Y)
    session.close()


@pytest.mark.usefixtures("nothing_leaves")
def test_weights_in_a_cache_of_blobs_are_refused(device: AgentDevice, tmp_path: Path) -> None:
    """As Hugging Face keeps them: the model, and its weights, are links to files elsewhere."""
    real = model(tmp_path / "blobs")
    real.with_name("w.bin").write_bytes(WEIGHTS.tobytes())
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for name in ("net.onnx", "w.bin"):
        (snapshot / name).symlink_to(f"../blobs/{name}")
    with pytest.raises(ModelFileError, match=r"w\.bin"):
        device.open(snapshot / "net.onnx")


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
@pytest.mark.parametrize("name", [*NO_FILES, *TOO_LARGE])
def test_models_that_are_no_files(
    device: AgentDevice, tmp_path: Path, sent: list[bytes], name: str, suffix: str
) -> None:
    path = tmp_path / f"net.{suffix}"
    EVERYTHING[name](path)
    if name in TOO_LARGE and suffix == "tflite":
        with path.open("r+b") as stream:
            stream.write(b"\x1c\0\0\0TFL3")
    for way in WAYS.values():
        with in_time(), pytest.raises(ModelFileError):
            way(device, path)
    assert not any(sent)


@pytest.mark.parametrize("count", [2, 9])
def test_the_files_of_a_model_have_a_limit_together(
    device: AgentDevice, tmp_path: Path, count: int
) -> None:
    path = model(tmp_path / "model")
    found = onnx.load(str(path), load_external_data=False)
    for index in range(count):
        tensor = found.graph.initializer.add()
        tensor.CopyFrom(found.graph.initializer[0])
        tensor.name = f"w{index}"
        tensor.external_data[0].value = f"w{index}.bin"
    del found.graph.initializer[0]
    path.write_bytes(found.SerializeToString())
    for index in range(count):
        hole = path.with_name(f"w{index}.bin")
        hole.touch()
        os.truncate(hole, MAX_BYTES // count)
    with in_time(), pytest.raises(ModelFileError):
        device.open(path)


Change = Callable[[Path], object]


def _replace(path: Path, content: bytes) -> None:
    path.with_name("new").write_bytes(content)
    path.with_name("new").replace(path)


def _link_out(path: Path) -> None:
    path.unlink()
    OUTSIDE["a link out"](path)


def _fifo(path: Path) -> None:
    path.unlink()
    NO_FILES["a FIFO"](path)


CHANGES: dict[str, Change] = {
    "grows": lambda path: os.truncate(path, path.stat().st_size + 1),
    "shrinks": lambda path: os.truncate(path, path.stat().st_size - 1),
    "is emptied": lambda path: os.truncate(path, 0),
    "is written over": lambda path: path.write_bytes(b"\1" * path.stat().st_size),
    "is replaced": lambda path: _replace(path, b"\1" * path.stat().st_size),
    "becomes a link out": _link_out,
    "becomes a FIFO": _fifo,
    "is gone": Path.unlink,
}


@pytest.mark.usefixtures("nothing_leaves")
@pytest.mark.parametrize(
    ("name", "change"),
    [
        *(("w.bin", change) for change in CHANGES),
        # The model itself may be a link.
        *(("net.onnx", change) for change in CHANGES if change != "becomes a link out"),
    ],
)
def test_a_file_that_changes_before_it_is_sent(
    device: AgentDevice,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
    name: str,
) -> None:
    path = model(tmp_path / "model")
    size = len(SECRET)
    path.with_name("w.bin").write_bytes(WEIGHTS.tobytes().ljust(size, b"\0"))

    def then_change(given: Path) -> files.SentModel:
        found = model_files(given)
        CHANGES[change](path.with_name(name))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(agent_device, "model_files", then_change)
        with in_time(), pytest.raises(ModelFileError):
            device.open(path)
    # Nobody waits for the rest of what was begun.
    again = model(tmp_path / "again")
    again.with_name("w.bin").write_bytes(WEIGHTS.tobytes())
    assert runs(device, again)


@pytest.mark.parametrize("change", ["grows", "shrinks", "is emptied", "is written over"])
def test_a_file_that_changes_while_it_is_sent(
    device: AgentDevice,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    path = model(tmp_path / "model")
    weights = path.with_name("w.bin")
    weights.write_bytes(bytes(1 << 20))
    monkeypatch.setattr(files, "PIECE_BYTES", 1 << 16)
    tell = Connection.tell
    changed: list[str] = []

    def then_change(self, kind, *args, **kwargs):
        tell(self, kind, *args, **kwargs)
        if kind == "piece" and not changed:
            changed.append(kind)
            CHANGES[change](weights)

    with monkeypatch.context() as patch:
        patch.setattr(Connection, "tell", then_change)
        with in_time(), pytest.raises(ModelFileError):
            device.open(path)
    assert changed
    weights.write_bytes(WEIGHTS.tobytes())
    assert runs(device, path)


def test_what_is_sent_is_what_was_announced(
    device: AgentDevice, tmp_path: Path, sent: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PIECE_BYTES", 7)
    path = model(tmp_path / "model", "new.bin")
    path.with_name("new.bin").write_bytes(WEIGHTS.tobytes())
    assert runs(device, path)
    assert b"".join(sent) == WEIGHTS.tobytes() + path.read_bytes()
    assert max(map(len, sent)) == 7


class NoAdb:
    serial = "x"

    def call(self, *arguments: str, timeout_s: float):
        pytest.fail(f"adb {arguments} for {timeout_s} s")


@pytest.fixture
def shell() -> AdbShell:
    """One that has nothing to say to its device."""
    made = object.__new__(AdbShell)
    made._adb, made._folder = cast(Adb, NoAdb()), "/data/local/tmp/x"
    return made


@pytest.mark.parametrize("name", [*NO_FILES, *GONE, *TOO_LARGE])
def test_android_devices_get_no_such_thing_either(
    shell: AdbShell, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "net.tflite"
    EVERYTHING[name](path)
    device = object.__new__(AndroidDevice)
    device._shell, device._pushed = shell, {}
    for attempt in (lambda: device._copied(path), lambda: shell.push(path, "/data/x")):
        with in_time(), pytest.raises(ModelFileError):
            attempt()
