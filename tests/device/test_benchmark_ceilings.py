"""Ceilings through the tool, on a shell that runs LiteRT on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("ai_edge_litert.schema_py_generated")
pytest.importorskip("google.protobuf")

from mnv4_deploy.device.benchmark_model.addition_model import write_additions
from mnv4_deploy.device.benchmark_model.ceilings import machine, read_caches, read_cores
from mnv4_deploy.device.benchmark_model.run import read_options
from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.profiles.inspection.inspect import inspect_file
from mnv4_deploy.profiles.machine.cache import checked
from mnv4_deploy.profiles.machine.products import Product
from mnv4_deploy.profiles.records.device import DeviceFacts
from tests.device.litert_as_tool import BINARY, LocalShell

pytestmark = pytest.mark.usefixtures("no_child")
FACTS = DeviceFacts(
    title="Phone", system="Android 14", architecture="arm64-v8a", cpu="A chip",
    runtimes={"benchmark_model": "2.18"}, fingerprint="f", isa=("neon",),
)  # fmt: skip
_CPUS = "/sys/devices/system/cpu"


@pytest.fixture
def shell(tmp_path: Path) -> LocalShell:
    home = tmp_path / "device"
    home.mkdir()
    return LocalShell(home)


def plant_caches(shell: LocalShell) -> None:
    shell.files[f"{_CPUS}/present"] = "0-1\n"
    for cpu, sizes in enumerate((("32K", "256K", "4M"), ("64K", "1M", "4M"))):
        kinds = [("1", "Data", sizes[0]), ("1", "Instruction", "64K")]
        kinds += [("2", "Unified", sizes[1]), ("3", "Unified", sizes[2])]
        for index, words in enumerate(kinds):
            for name, word in zip(("level", "type", "size"), words, strict=True):
                shell.files[f"{_CPUS}/cpu{cpu}/cache/index{index}/{name}"] = word + "\n"


def test_caches_are_those_of_the_largest_core(shell):
    plant_caches(shell)
    assert read_cores(shell) == 2
    assert read_caches(shell) == {"L1": 64 << 10, "L2": 1 << 20, "L3": 4 << 20}


def test_hidden_caches(shell):
    assert (read_cores(shell), read_caches(shell)) == (1, {})


def test_the_file_of_additions_runs_in_xnnpack(tmp_path):
    facts = inspect_file(write_additions(tmp_path / "m.tflite", 5, 1000))
    assert [op.kind for op in facts.operators] == ["ADD"] * 5
    assert facts.delegated_share == 1.0


def test_ceilings_of_a_device(shell, monkeypatch):
    from mnv4_deploy.device.benchmark_model import ceilings

    monkeypatch.setattr(ceilings, "_DRAM_FLOATS", 1 << 20)
    plant_caches(shell)
    options = read_options(shell, BINARY)
    found = machine(
        shell, FACTS, 1, binary=BINARY, options=options,
        products=(Product(14, 15, 256, 64), Product(14, 15, 64, 64, kernel=3)),
    )  # fmt: skip
    assert (found.cpu, found.cores, found.isa) == ("A chip", 2, ("neon",))
    assert found.versions == {"benchmark_model": "2.18"}
    assert "benchmark_model" in found.method
    assert checked(found) is found  # it can be kept
    (one,) = found.ceilings
    peaks = one.peak_macs_per_s["xnnpack"]
    assert set(peaks) == {"float32", "int8", "uint8", "int8 dynamic"}
    assert all(1e8 < peak < 1e13 for peak in peaks.values())
    assert 0 <= one.op_overhead_us["xnnpack"] < 50
    names = [level.name for level in one.memory]
    assert names == [n for n in ("L1", "L2", "L3", "DRAM") if n in names]
    assert names[-1] == "DRAM" and one.memory[-1].capacity_bytes is None
    assert all(1e8 < level.bytes_per_s < 1e13 for level in one.memory)
    assert [p.name for p in shell.home.iterdir() if p.suffix == ".tflite"] == ["ceiling.tflite"]


def test_a_build_without_profiler_has_no_ceilings(shell):
    options = read_options(shell, BINARY) - {"enable_op_profiling"}
    with pytest.raises(UnsupportedError, match="without operator profiling"):
        machine(shell, FACTS, 1, binary=BINARY, options=options)
