"""Ceilings of a device are measured once, kept under its fingerprint, and checked."""

from dataclasses import replace
from pathlib import Path

import pytest

from mnv4_deploy.device.ceilings import ceilings_key, device_machine
from mnv4_deploy.errors import ToolchainError, UnsupportedError
from mnv4_deploy.profiles.machine import cache
from mnv4_deploy.profiles.records.device import DeviceAddress, DeviceFacts
from mnv4_deploy.profiles.records.machine import Ceilings, Machine, MemoryLevel


def _ceilings(threads: int, peak: float = 4e9) -> Ceilings:
    return Ceilings(
        threads=threads,
        peak_macs_per_s={"onnxruntime": {"float32": peak}},
        memory=(MemoryLevel("L1", 32768, 2e10), MemoryLevel("DRAM", None, 3e9)),
        op_overhead_us={"onnxruntime": 1.5},
        spin_us=4000.0,
        clock_ghz=1.5,
    )


class _Board:
    """A device whose ceilings are given; ``asked`` are the thread counts measured."""

    address = DeviceAddress("ssh", "board", "ssh://board")

    def __init__(self, fingerprint: str = "f1", emulator: str = "") -> None:
        self.facts = DeviceFacts(
            "board", "Linux", "aarch64", "Cortex", {}, fingerprint, emulator=emulator
        )
        self.asked: list[int] = []
        self.answer = lambda threads: (_ceilings(threads),)
        self.error: Exception | None = None

    def machine(self, threads: int) -> Machine:
        self.asked.append(threads)
        if self.error:
            raise self.error
        return Machine(
            "Cortex", 4, ("neon",), {}, "now", "how", {}, self.answer(threads), {"float32": 1e10}
        )


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("MNV4_DEPLOY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_device_is_measured_once_for_each_number_of_threads():
    board = _Board()
    assert device_machine(board, 1, measure=False) is None
    first = device_machine(board, 1)
    assert device_machine(board, 1) == first
    both = device_machine(board, 4)
    assert [c.threads for c in both.ceilings] == [1, 4]
    assert device_machine(_Board(), 4, measure=False) == both  # another connection
    assert board.asked == [1, 4]


def test_measuring_again_replaces_and_keeps_other_thread_counts():
    board = _Board()
    device_machine(board, 1)
    device_machine(board, 2)
    board.answer = lambda threads: (_ceilings(threads, peak=5e9),)
    machine = device_machine(board, 2, measure=True)
    assert [c.peak("onnxruntime", "float32") for c in machine.ceilings] == [4e9, 5e9]


def test_devices_and_this_machine_do_not_share_ceilings(folder):
    device_machine(_Board("f1"), 1)
    assert device_machine(_Board("f2"), 1, measure=False) is None
    assert cache.load_machine() is None
    assert cache.cache_path(ceilings_key(_Board("f1").facts)).parent == folder
    hostile = _Board("../../etc/passwd\n")
    device_machine(hostile, 1)
    assert len(list(folder.iterdir())) == 2
    assert all(path.name.startswith("machine-") for path in folder.iterdir())


def test_an_emulator_has_no_ceilings(folder):
    board = _Board(emulator="qemu-aarch64")
    notes: list[str] = []
    assert device_machine(board, 1, measure=True, note=notes.append) is None
    assert device_machine(board, 1) is None
    assert board.asked == []
    assert len(notes) == 1
    assert "board is emulated by qemu-aarch64" in notes[0]
    assert not folder.exists()


def test_a_device_that_cannot_be_measured_is_a_note_unless_asked_for():
    board = _Board()
    notes: list[str] = []
    board.error = UnsupportedError("No ceiling of the device could be measured.")
    assert device_machine(board, 1, note=notes.append) is None
    assert notes == ["No ceiling of the device could be measured."]
    with pytest.raises(UnsupportedError):
        device_machine(board, 1, measure=True)


def test_a_lost_device_is_an_error():
    board = _Board()
    board.error = ToolchainError("lost")
    with pytest.raises(ToolchainError, match="lost"):
        device_machine(board, 1)


@pytest.mark.parametrize(
    "answer",
    [
        lambda _threads: (),
        lambda threads: (_ceilings(threads + 1),),
        lambda threads: (replace(_ceilings(threads), spin_us=0.0),),
        lambda threads: (_ceilings(threads, peak=-1.0),),
        lambda threads: (_ceilings(threads, peak=float("nan")),),
        lambda threads: (replace(_ceilings(threads), clock_ghz=float("inf")),),
        lambda threads: (replace(_ceilings(threads), op_overhead_us={"onnxruntime": -1.0}),),
    ],
)
def test_ceilings_that_cannot_be_are_refused_and_not_kept(answer, folder):
    board = _Board()
    board.answer = answer
    with pytest.raises(ToolchainError, match="sent ceilings that cannot be"):
        device_machine(board, 1)
    assert not folder.exists()
