"""A kit made here measures where nothing but NumPy and a runtime is installed."""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mnv4_deploy.errors import ToolchainError, UnsupportedError
from mnv4_deploy.profiles.machine import ceilings
from mnv4_deploy.profiles.machine.ceilings import measure_machine
from mnv4_deploy.profiles.machine.cpu import fingerprint, limits_macs_per_s, read_cpu
from mnv4_deploy.profiles.machine.kernels import compiled, rates
from mnv4_deploy.profiles.machine.kernels.loaded import normal_architecture
from mnv4_deploy.profiles.machine.kernels.plan import plan_for
from mnv4_deploy.profiles.machine.kit import PeakKit, kit_bytes, read_kit
from mnv4_deploy.profiles.machine.memory import NumpyAddition, numpy_memory
from mnv4_deploy.profiles.machine.remote import pack, pack_bytes
from mnv4_deploy.profiles.records.device import DeviceFacts
from mnv4_deploy.profiles.records.machine import Machine
from tests.profiles.hasty import in_haste
from tests.shared import Shared

pytest.importorskip("llvmlite")
pytest.importorskip("onnx")

_CPU = read_cpu()
_HERE = normal_architecture(platform.machine())
_linux = pytest.mark.skipif(
    platform.system() != "Linux" or _HERE not in ("x86_64", "aarch64"),
    reason="code for devices is for Linux on x86-64 and Arm",
)


def _facts(**changed) -> DeviceFacts:
    facts = DeviceFacts(
        title="board",
        system="Linux",
        architecture=platform.machine(),
        cpu=_CPU.model,
        runtimes={"onnxruntime": "1.0"},
        fingerprint=fingerprint(),
        isa=_CPU.isa,
    )
    return replace(facts, **changed)


@pytest.fixture(scope="module")
def kit_file(tmp_path_factory) -> Path:
    path: Path = tmp_path_factory.mktemp("kit") / "kit"
    path.write_bytes(pack_bytes(_facts()))
    return path


@contextmanager
def _hidden(folder: Path, *packages: str) -> Iterator[None]:
    """Hides packages from the child processes, and from theirs, as they are on a device."""
    for package in packages:
        (folder / f"{package}.py").write_text("raise ImportError('not on a device')\n")
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(folder))
        yield


@pytest.fixture(scope="module")
def measured(kit_file: Path, shared: Shared) -> Machine:
    """This machine as a device on which only onnxruntime is installed."""
    pytest.importorskip("onnxruntime")

    def measure(folder: Path) -> Machine:
        with _hidden(folder, "llvmlite", "onnx", "ai_edge_litert", "flatbuffers"), in_haste():
            return measure_machine([1], str(kit_file))

    _, machine = shared.folder_and_value("ceilings-by-a-kit", measure)
    return machine


def test_a_kit_survives_its_journey(kit_file, tmp_path):
    kit = pack(_HERE, _CPU.isa)
    again = tmp_path / "again"
    again.write_bytes(kit_bytes(kit))
    assert read_kit(again) == kit
    received = read_kit(kit_file)
    assert received.code == kit.code
    assert set(received.code) == {kernel.name for kernel in plan_for(_CPU.isa).kernels}
    assert all(kernel.ir == "" for kernel in received.plan.kernels)
    sent = {k.name: replace(k, ir="") for k in plan_for(_CPU.isa).kernels}
    assert {k.name: k for k in received.plan.kernels} == sent
    assert set(received.versions) == {"llvmlite", "onnx"}
    assert kit_file.stat().st_size < 8 << 20


def test_a_device_without_onnxruntime_gets_no_models():
    kit = pack_bytes(_facts(runtimes={"tflite-runtime": "2.14.0"}))
    assert len(kit) < 100_000


def test_same_kit_for_the_same_device():
    assert pack_bytes(_facts(runtimes={})) == pack_bytes(_facts(runtimes={}))


@pytest.mark.parametrize(
    "damage",
    [
        lambda _kit: b"",
        lambda kit: kit[:-1],
        lambda kit: kit[: len(kit) // 2],
        lambda kit: kit + b"x",
        lambda kit: kit[:200] + bytes([kit[200] ^ 1]) + kit[201:],
        lambda kit: kit[:-9] + bytes([kit[-9] ^ 128]) + kit[-8:],
        lambda kit: kit.replace(b"kit 2", b"kit 1", 1),
        lambda _kit: b"\x00" * 100,
    ],
)
def test_a_damaged_kit_is_an_error_before_anything_runs(damage, kit_file, tmp_path, monkeypatch):
    monkeypatch.setattr(ceilings, "run_isolated", lambda *_a, **_k: pytest.fail("it ran"))
    path = tmp_path / "damaged"
    path.write_bytes(damage(kit_file.read_bytes()))
    with pytest.raises(ToolchainError, match=r"arrived damaged .* run the command again"):
        measure_machine([1], str(path))


def test_a_kit_that_is_not_there(tmp_path):
    with pytest.raises(ToolchainError, match="cannot be read"):
        measure_machine([1], str(tmp_path / "none"))


def test_a_kit_of_another_version(tmp_path):
    import hashlib

    rest = b'{"architecture": 5}\n'
    path = tmp_path / "kit"
    path.write_bytes(
        b"mnv4-deploy-kit 2 " + hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest
    )
    with pytest.raises(ToolchainError, match="another version"):
        read_kit(path)


@pytest.mark.parametrize("threads", [0, 10_000])
def test_impossible_thread_counts(threads, kit_file):
    with pytest.raises(UnsupportedError, match="number of CPUs"):
        measure_machine([threads], str(kit_file))


@_linux
def test_a_device_without_llvmlite_and_onnx_is_measured(measured):
    """All but XNNPACK; rates are possible ones."""
    machine = measured
    (found,) = machine.ceilings
    assert set(found.peak_macs_per_s) == {"independent", "onnxruntime"}
    assert [m.name for m in found.memory] == [*(c.name for c in _CPU.caches), "DRAM"]
    assert all(m.bytes_per_s > 1e8 for m in found.memory)
    assert set(found.op_overhead_us) == {"onnxruntime"}
    assert found.spin_us > 0
    assert machine.versions["llvmlite"]
    assert machine.method.count("Left out:") == 1
    assert "Left out: XNNPACK" in machine.method
    assert "NumPy" not in machine.method
    per_ghz = limits_macs_per_s(1.0, _CPU.isa)
    if per_ghz:
        # On a busy machine the clock may seem slower than what multiply-adds prove it to be.
        proven_ghz = found.peak("independent", "float32") / per_ghz["float32"]
        assert proven_ghz < 7  # no processor runs faster
        ghz = max(found.clock_ghz, proven_ghz)
        for compute in ("float32", "int8"):
            limit = per_ghz[compute] * ghz
            for source in found.peak_macs_per_s:
                assert limit / 100 < found.peak(source, compute) < 1.1 * limit


@pytest.mark.usefixtures("fresh_child")
def test_without_kernels_numpy_measures_memory(tmp_path):
    path = tmp_path / "kit"
    path.write_bytes(pack_bytes(_facts(architecture="riscv64", isa=())))
    with _hidden(tmp_path, "llvmlite", "onnx", "onnxruntime", "ai_edge_litert"), in_haste():
        machine = measure_machine([1], str(path))
    (found,) = machine.ceilings
    assert found.peak_macs_per_s == {}
    assert [m.name for m in found.memory] == [*(c.name for c in _CPU.caches), "DRAM"]
    assert found.clock_ghz is None
    assert machine.limits_macs_per_s == {}
    assert "Left out: instruction peaks and memory. Instruction peaks cannot be measured on" in (
        machine.method
    )
    assert "two reads and a write counted: more may be possible" in machine.method


@_linux
def test_numpys_memory_is_possible_and_near_that_of_the_kernels(measured):
    best = {level.name: level for level in measured.ceilings[0].memory}
    with in_haste():
        by_numpy = numpy_memory(_CPU, 1)
    for level in by_numpy:
        assert level.capacity_bytes == best[level.name].capacity_bytes
        assert 0.1 < level.bytes_per_s / best[level.name].bytes_per_s < 1.5


@pytest.mark.parametrize("iterations", [1, 3, 63, 64, 1000])
def test_numpys_additions_are_as_many_as_are_counted(iterations):
    data = np.zeros(256, np.uint32)
    data[128:] = np.arange(128)
    NumpyAddition(data.nbytes)(data.view(np.uint8), iterations, np.zeros(1))
    assert np.array_equal(data[:128], iterations * np.arange(128))


def test_a_job_that_begins_with_one_iteration_grows(monkeypatch):
    """One that takes most of a sample must not stay at one for ever."""
    calls = []

    class Slow(NumpyAddition):
        def __call__(self, _data, iterations, _out):
            calls.append(iterations)

    def seconds(work):
        work()
        return 0.0015 * calls[-1]

    monkeypatch.setattr(rates, "_seconds", seconds)
    rates.Job(Slow(256), [np.zeros(64, np.uint32)], blocks=1)
    assert list(dict.fromkeys(calls)) == [1, 2]


def test_a_disturbance_at_the_start_does_not_leave_the_overhead_to_be_measured():
    """A run that was interrupted looks as if it were long enough."""
    iterations_seen = []

    class Interrupted(NumpyAddition):
        def __call__(self, data, iterations, out):
            iterations_seen.append(iterations)
            if len(iterations_seen) in (1, 5):  # of the first and of the second three
                time.sleep(0.01)
            super().__call__(data, iterations, out)

    rates.Job(Interrupted(32768), [np.zeros(8192, np.uint32)], blocks=1)
    # Two microseconds each: some hundreds of them make a sample of two milliseconds.
    assert iterations_seen[-1] > 50


@_linux
def test_kernels_for_another_processor_are_not_run():
    """An instruction that is not there would end the process."""
    kit = pack(_HERE, ())
    kit.kernels_for(_CPU)
    with pytest.raises(UnsupportedError, match="need sme, which is not here"):
        replace(kit, isa=("sme",)).kernels_for(replace(_CPU, isa=()))
    other = {"x86_64": "aarch64", "aarch64": "x86_64"}[_HERE]
    with pytest.raises(UnsupportedError, match="does not run"):
        pack(other, ()).kernels_for(_CPU)


@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
def test_whatever_a_device_says_of_itself_gets_kernels(architecture):
    """In a process of its own, which LLVM would end."""
    code = f"""
import random
from mnv4_deploy.profiles.machine.cpu import LLVM_FEATURES
from mnv4_deploy.profiles.machine.remote import pack
names = [*LLVM_FEATURES.values(), "mystery", "+avx2", ""]
draw = random.Random(0)
for _ in range(6):
    isa = draw.sample(names, draw.randrange(len(names) + 1))
    kit = pack("{architecture}", isa, onnx=False)
    assert kit.plan and not kit.missing, (isa, kit.missing)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_host_without_llvmlite_says_so(monkeypatch):
    def missing():
        raise ToolchainError("Ceilings need llvmlite: install it.")

    monkeypatch.setattr(compiled, "_llvm", missing)
    kit = pack("x86_64", (), onnx=False)
    assert kit == PeakKit("x86_64", (), missing="Ceilings need llvmlite: install it.")
    with pytest.raises(UnsupportedError, match="need llvmlite"):
        kit.kernels_for(_CPU)


def test_nothing_measurable_says_why(kit_file, monkeypatch):
    def fail(function, *_args, **_named):
        raise ToolchainError(f"{function.__name__} is impossible.")

    monkeypatch.setattr(ceilings, "run_isolated", fail)
    with pytest.raises(UnsupportedError, match=r"No ceiling .*measure_numpy is impossible\."):
        measure_machine([1], str(kit_file))


def test_making_a_kit_leaves_no_files(tmp_path):
    """Models are written to a temporary folder, by a fresh process to see all of it."""
    code = "from mnv4_deploy.profiles.machine.remote import pack; pack('aarch64', ('neon',))"
    subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}, check=True
    )
    assert list(tmp_path.iterdir()) == []
