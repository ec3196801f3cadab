"""Files measured on a device that is a child process here: what is sent, joined and said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from mnv4_deploy.device.device import Device
from mnv4_deploy.device.measure import measure_on
from mnv4_deploy.errors import DeployError, ModelFileError, ToolchainError, UnsupportedError
from mnv4_deploy.profiles.isolated import run_isolated
from mnv4_deploy.profiles.machine.tflite_models import write_tflite_chain
from mnv4_deploy.profiles.measure.measure import time_here
from mnv4_deploy.profiles.records.device import DeviceAddress, DeviceFacts, DeviceState
from mnv4_deploy.profiles.records.plain import from_plain, to_plain
from mnv4_deploy.profiles.records.profile import MeasureRequest, TimedFile

pytestmark = pytest.mark.usefixtures("no_child")
onnx = pytest.importorskip("onnx")
helper = onnx.helper


class FakeDevice:
    """Times in a child process; remembers what it was asked, in order."""

    address = DeviceAddress("ssh", "pi@board", "ssh://pi@board")
    facts = DeviceFacts("Board", "Linux", "aarch64", "Cortex-A72", {}, "0", emulator="qemu-arm")

    def __init__(self, error: DeployError | None = None, lost: int = 0) -> None:
        self._error, self._lost = error, lost
        self.asked: list[Any] = []

    def state(self) -> DeviceState:
        self.asked.append("state")
        return DeviceState(temperatures_c={"cpu": 40.0 + len(self.asked)})

    def time(self, requests: Sequence[MeasureRequest]) -> tuple[TimedFile, ...]:
        self.asked.append([replace(request) for request in requests])
        self.files = [Path(request.path).read_bytes() for request in requests]
        if self._error is not None:
            raise self._error
        found = run_isolated(time_here, tuple(requests))[self._lost :]
        return tuple(from_plain(TimedFile, to_plain(timed)) for timed in found)


def _measure(device: FakeDevice, *requests: MeasureRequest) -> Any:
    return measure_on(cast(Device, device), requests)


def _net(folder: Path, *, names: Sequence[str] = ("a", "a", ""), beside: bool = False) -> Path:
    """Three nodes with ``names``; ``beside``: the weights in a file of their own."""
    weights = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"], name=names[0]),
        helper.make_node("Erf", ["y"], ["e"], name=names[1]),
        helper.make_node("MatMul", ["e", "w"], ["z"], name=names[2]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "net",
        [value("x", onnx.TensorProto.FLOAT, [8, 64])],
        [value("z", onnx.TensorProto.FLOAT, [8, 64])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    folder.mkdir(exist_ok=True)
    path = folder / "net.onnx"
    onnx.save(
        model,
        str(path),
        save_as_external_data=beside,
        location="net.weights" if beside else None,
        size_threshold=0,
    )
    return path


@pytest.fixture
def lite(tmp_path: Path) -> Path:
    return write_tflite_chain(tmp_path / "chain.tflite", 4)


def test_says_where_it_ran_and_how_the_device_was(lite: Path, tmp_path: Path) -> None:
    net = _net(tmp_path / "onnx")
    device = FakeDevice()
    first, second = _measure(
        device, MeasureRequest(str(lite), runs=3), MeasureRequest(str(net), runs=3)
    )
    assert device.asked[0] == device.asked[2] == "state"
    assert (first.path, first.profile.path) == (str(lite), str(lite))
    assert (second.path, second.format) == (str(net), "onnx")
    assert sum(map(len, first.rounds_us)) == sum(map(len, second.rounds_us)) == 3
    assert [layer.op_type for layer in second.layers if layer.op_indices] == [
        "MatMul",
        "Erf",
        "MatMul",
    ]
    for found in (first, second):
        assert found.device is not None
        assert found.device.address.text == "ssh://pi@board"
        assert found.device.before.temperatures_c == {"cpu": 41.0}
        assert found.device.after.temperatures_c == {"cpu": 43.0}
        assert "emulated by qemu-arm" in found.device.warnings[0]


def test_every_node_is_sent_with_a_name(tmp_path: Path) -> None:
    net = _net(tmp_path / "onnx", beside=True)
    content = net.read_bytes()
    device = FakeDevice()
    (found,) = _measure(device, MeasureRequest(str(net), runs=2))
    (sent,) = device.asked[1]
    assert sent.path != str(net)
    assert not Path(sent.path).exists()  # it was a temporary copy
    names = [node.name for node in onnx.load_from_string(device.files[0]).graph.node]
    assert len(set(names)) == 3
    assert all(names)
    assert found.path == str(net)
    assert [op.kind for op in found.graph.ops] == ["MatMul", "Erf", "MatMul"]
    assert all(layer.timing_indices for layer in found.layers)
    assert net.read_bytes() == content


def test_a_file_that_is_ready_is_sent_as_it_is(tmp_path: Path, lite: Path) -> None:
    net = _net(tmp_path / "onnx", names=("a", "b", "c"))
    device = FakeDevice()
    _measure(device, MeasureRequest(str(net), runs=1), MeasureRequest(str(lite), runs=1))
    assert [sent.path for sent in device.asked[1]] == [str(net), str(lite)]


def test_errors_name_the_user_s_file(tmp_path: Path) -> None:
    net = _net(tmp_path / "onnx")

    class Refusing(FakeDevice):
        def time(self, requests: Sequence[MeasureRequest]) -> tuple[TimedFile, ...]:
            raise ModelFileError(f"onnxruntime cannot run {requests[0].path}: no kernel.")

    with pytest.raises(ModelFileError) as caught:
        _measure(Refusing(), MeasureRequest(str(net)))
    assert str(caught.value) == f"onnxruntime cannot run {net}: no kernel."


@pytest.mark.parametrize(
    "content",
    [b"", b"hello, I am no model\n" * 20, b"\x08\x09\x12\xff\xff\xff\xff\x0f"],
    ids=["empty", "text", "cut"],
)
def test_what_is_no_model_never_reaches_the_device(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    device = FakeDevice()
    with pytest.raises(ModelFileError, match=r"bad\.onnx"):
        _measure(device, MeasureRequest(str(path)))
    assert device.asked == []


def test_cpus_and_threads_are_the_device_s_to_know(lite: Path) -> None:
    refusal = UnsupportedError("64 threads are more than the 4 CPUs to run on: give at most 4.")
    device = FakeDevice(refusal)
    with pytest.raises(UnsupportedError, match="64 threads are more than the 4"):
        _measure(device, MeasureRequest(str(lite), threads=64, cpus=(40, 41)))
    ((sent,),) = device.asked[1:]
    assert (sent.threads, sent.cpus) == (64, (40, 41))


@pytest.mark.parametrize("change", [{"runs": 0}, {"warmup": -1}, {"max_seconds": 0.0}])
def test_the_rest_is_checked_before_anything_is_sent(lite: Path, change: Any) -> None:
    device = FakeDevice()
    with pytest.raises(UnsupportedError, match="out of range"):
        _measure(device, replace(MeasureRequest(str(lite)), **change))
    assert device.asked == []


def test_times_that_are_missing(lite: Path, tmp_path: Path) -> None:
    other = write_tflite_chain(tmp_path / "other.tflite", 2)
    requests = [MeasureRequest(str(path), runs=2) for path in (lite, other)]
    with pytest.raises(ToolchainError, match="times of 1 files instead of 2"):
        _measure(FakeDevice(lost=1), *requests)
