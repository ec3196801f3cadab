"""Machine code for a device: stands alone, computes the same, and is what was asked for."""

import mmap
import os
import platform
import struct
from pathlib import Path

import numpy as np
import pytest

from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.profiles.machine.cpu import read_cpu
from mnv4_deploy.profiles.machine.kernels import integer_ir, loaded, loop_ir
from mnv4_deploy.profiles.machine.kernels.compiled import (
    CompiledKernel,
    features,
    machine_code,
    target_machine,
)
from mnv4_deploy.profiles.machine.kernels.loaded import LoadedKernel, check_loadable
from mnv4_deploy.profiles.machine.kernels.loop_ir import Kernel
from mnv4_deploy.profiles.machine.kernels.plan import plan_for
from mnv4_deploy.profiles.machine.kernels.rates import Job, aligned, best_rates, floats
from tests.profiles.arm_program import EMULATOR, run_on_arm

llvm = pytest.importorskip("llvmlite.binding")

_CPU = read_cpu()
_HERE = loaded.normal_architecture(platform.machine())
_ITERATIONS = 21
_X86 = ("sse4_1", "avx", "avx2", "fma")
_AVX512 = (*_X86, "avx512f", "avx512bw", "avx512vl", "avx512_vnni")
_PI4, _PI5, _I8MM = ("neon",), ("neon", "dotprod"), ("neon", "dotprod", "i8mm")
_PROCESSORS = [
    ("x86_64", ()),
    ("x86_64", ("sse4_1", "avx")),
    ("x86_64", _X86),
    ("x86_64", (*_X86, "avx_vnni")),
    ("x86_64", (*_AVX512, "amx_int8")),
    ("aarch64", _PI4),
    ("aarch64", _PI5),
    ("aarch64", (*_I8MM, "sme")),
]
_runs_here = pytest.mark.skipif(
    platform.system() != "Linux" or _HERE not in ("x86_64", "aarch64"),
    reason="code for devices is for Linux on x86-64 and Arm",
)


def _data(kernel: Kernel, seed: int = 3) -> np.ndarray:
    """Random bytes for integers, small whole numbers where sums of floats must be exact."""
    data = aligned(1 << 16)
    if kernel.name in ("fma", "mul + add"):
        data.view(np.float32)[:] = np.arange(data.size // 4) % 7
    else:
        data[:] = np.random.default_rng(seed).integers(0, 256, data.size)
    return data


def _out() -> np.ndarray:
    out = np.zeros(4096, np.uint8)
    out.view(np.int64)[0] = 3  # blocks, for those that read them
    return out


@_runs_here
@pytest.mark.parametrize("kernel", plan_for(_CPU.isa).kernels, ids=lambda k: k.name)
def test_loaded_code_computes_what_code_compiled_in_place_computes(kernel):
    found = []
    for run in (
        CompiledKernel(kernel),
        LoadedKernel(kernel, machine_code(kernel, _HERE, _CPU.isa)),
    ):
        data, out = _data(kernel), _out()
        run(data, _ITERATIONS, out)
        found.append((data.tobytes(), out.tobytes()))
    assert found[0] == found[1]
    assert any(found[0][1])


@_runs_here
def test_loaded_code_is_as_fast_as_code_compiled_in_place():
    kernel = loop_ir.fma(_CPU.isa)
    code = machine_code(kernel, _HERE, _CPU.isa)
    jobs = {
        "in place": Job(CompiledKernel(kernel), [floats()]),
        "loaded": Job(LoadedKernel(kernel, code), [floats()]),
    }
    rates = best_rates(jobs, None)
    # Code for a lesser instruction set would take several times as long.
    assert 0.25 < rates["loaded"] / rates["in place"] < 4


@_runs_here
def test_no_page_of_loaded_code_is_writable():
    kernel = loop_ir.clock()
    run = LoadedKernel(kernel, machine_code(kernel, _HERE, _CPU.isa))
    address = np.frombuffer(run._pages, np.uint8).ctypes.data
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    (line,) = [m for m in maps if m.startswith(f"{address:x}-")]
    assert line.split()[1] == "r-xp"


@pytest.mark.parametrize(("architecture", "isa"), _PROCESSORS)
def test_code_of_every_kernel_stands_alone(architecture, isa):
    plan = plan_for(isa)
    assert len({kernel.name for kernel in plan.kernels}) == len(plan.kernels)
    for kernel in plan.kernels:
        code = machine_code(kernel, architecture, isa)
        assert 32 < len(code) < 4096
        # The last instruction returns: ret, or ret of Arm; x86 code may end in padding.
        if architecture == "aarch64":
            assert struct.unpack("<I", code[-4:]) == (0xD65F03C0,)
        else:
            assert code.rstrip(b"\x00\x90").endswith(b"\xc3")


def _lines(kernel: Kernel, architecture: str, isa: tuple[str, ...]) -> list[str]:
    machine = target_machine(architecture, isa)
    module = llvm.parse_assembly(kernel.ir)
    module.triple = machine.triple
    return [line.strip() for line in machine.emit_assembly(module).splitlines()]


@pytest.mark.parametrize(
    ("architecture", "isa", "expected"),
    [
        ("x86_64", _X86, {"vpmaddwd": "ymm", "vpmaddubsw": "ymm"}),
        ("x86_64", (*_X86, "avx_vnni"), {"vpdpbusd": "ymm"}),
        ("x86_64", _AVX512, {"vpmaddwd": "zmm", "vpdpbusd": "zmm"}),
        ("aarch64", _PI4, {"smull": ".8h", "sadalp": ".4s"}),
        ("aarch64", _PI5, {"smull": ".8h", "sdot": ".4s"}),
        ("aarch64", _I8MM, {"sdot": ".4s", "smmla": ".4s"}),
    ],
)
def test_each_instruction_set_gets_its_instructions(architecture, isa, expected):
    """With nothing but the instruction sets that a device tells, not its processor's name."""
    lines = [
        line
        for kernel in integer_ir.integer_kernels(isa)
        for line in _lines(kernel, architecture, isa)
    ]
    for instruction, register in expected.items():
        assert any(f"{instruction}\t" in x and register in x for x in lines)
    unknown = {"vpdpbusd", "sdot", "smmla"} - set(expected)
    if "vnni" not in " ".join(isa) and isa != _I8MM:
        assert not any(name in line for name in unknown for line in lines)


def test_features_are_llvms_names():
    assert features(("sse4_1", "avx_vnni", "amx_int8")) == "+sse4.1,+avxvnni,+amx-int8"
    assert features(()) == ""


def _kernel(ir: str) -> Kernel:
    return Kernel("bad", ir, 1)


@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
def test_code_that_needs_more_than_itself_is_refused(architecture):
    call = """declare void @elsewhere()
define void @kernel(ptr %data, i64 %iterations, ptr %out) nounwind {
  call void @elsewhere()
  ret void
}"""
    constants = """define void @kernel(ptr %data, i64 %iterations, ptr %out) nounwind {
  store <4 x i32> <i32 1234567, i32 7654321, i32 1111111, i32 2222222>, ptr %out
  ret void
}"""
    variable = """@state = internal global i64 3
define void @kernel(ptr %data, i64 %iterations, ptr %out) nounwind {
  store volatile i64 %iterations, ptr @state
  ret void
}"""
    unwinding = "define void @kernel(ptr %data, i64 %iterations, ptr %out) {\nret void\n}"
    for ir in (call, constants, variable, unwinding):
        with pytest.raises(UnsupportedError, match=r"does not stand alone \(\.|not stand alone"):
            machine_code(_kernel(ir), architecture, ())
    two = "define void @first() {\nret void\n}\n" + unwinding
    with pytest.raises(UnsupportedError, match="not one function"):
        machine_code(_kernel(two), architecture, ())


@pytest.mark.parametrize("architecture", ["armv7l", "riscv64", "", "aarch64_be"])
def test_other_architectures_are_refused(architecture):
    with pytest.raises(UnsupportedError, match="64-bit system"):
        machine_code(loop_ir.clock(), architecture, ())


def test_code_is_not_loaded_where_it_does_not_run(monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    check_loadable("aarch64")
    with pytest.raises(UnsupportedError, match="x86_64 does not run"):
        check_loadable("x86_64")
    with monkeypatch.context() as patched:
        # Raspberry Pi OS: a 64-bit kernel under 32-bit programs.
        patched.setattr(struct, "calcsize", lambda _format: 4)
        with pytest.raises(UnsupportedError, match="32-bit Python"):
            check_loadable("aarch64")
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    with pytest.raises(UnsupportedError, match="Darwin"):
        check_loadable("aarch64")


@_runs_here
def test_a_system_that_maps_no_code_is_an_error_of_ours(monkeypatch):
    def refuse(*_args, **_named):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(mmap, "mmap", refuse)
    with pytest.raises(UnsupportedError, match="does not let code be loaded"):
        LoadedKernel(loop_ir.clock(), b"\xc3")


@_runs_here
def test_code_is_loaded_without_files_in_memory_too(monkeypatch):
    monkeypatch.delattr(os, "memfd_create", raising=False)
    kernel = loop_ir.clock()
    out = _out()
    LoadedKernel(kernel, machine_code(kernel, _HERE, _CPU.isa))(_data(kernel), 1, out)
    assert out.any()


def _inner_products(kernel: Kernel, panel: np.ndarray) -> np.ndarray:
    """Sums by row, column and lane, from the definitions of Arm's instructions."""
    vectors = panel[: integer_ir.PANEL_STEPS * (kernel.rows + kernel.columns)].astype(np.int64)
    steps = vectors.reshape(integer_ir.PANEL_STEPS, kernel.rows + kernel.columns, -1)
    # An iteration is two steps of the panel.
    order = [(2 * i + k) % integer_ir.PANEL_STEPS for i in range(_ITERATIONS) for k in range(2)]
    a, b = steps[order, : kernel.rows], steps[order, kernel.rows :]
    if kernel.name == "smmla":  # 2 x 8 times the transpose of 2 x 8
        shape = (*a.shape[:2], 2, 8), (*b.shape[:2], 2, 8)
        sums = np.einsum("srik,scjk->rcij", a.reshape(shape[0]), b.reshape(shape[1]))
    else:  # four lanes of neighbouring products
        shape = (*a.shape[:2], 4, a.shape[2] // 4), (*b.shape[:2], 4, a.shape[2] // 4)
        sums = np.einsum("srlk,sclk->rcl", a.reshape(shape[0]), b.reshape(shape[1]))
    found: np.ndarray = sums.astype(np.int32).reshape(-1)
    return found


@pytest.mark.skipif(EMULATOR is None, reason="needs qemu-aarch64")
@pytest.mark.parametrize("kernel", integer_ir.integer_kernels(_I8MM), ids=lambda k: k.name)
def test_arms_integer_kernels_compute_inner_products(kernel, tmp_path):
    size = integer_ir.PANEL_STEPS * (kernel.rows + kernel.columns) * kernel.vector_bytes
    panel = np.random.default_rng(1).integers(-128, 128, size, np.int8)
    code = machine_code(kernel, "aarch64", _I8MM)
    out = run_on_arm(tmp_path, code, panel.tobytes(), _ITERATIONS, bytes(4096))
    expected = _inner_products(kernel, panel.reshape(-1, kernel.vector_bytes))
    assert np.array_equal(np.frombuffer(out, np.int32)[: expected.size], expected)


@pytest.mark.skipif(EMULATOR is None, reason="needs qemu-aarch64")
def test_arms_multiply_adds_reads_and_clock(tmp_path):
    plan = plan_for(_PI4)
    data = (np.arange(4096) % 7).astype(np.float32)
    lanes, chains = plan.floats.vector_bytes // 4, plan.floats.rows
    code = machine_code(plan.floats, "aarch64", _PI4)
    out = np.frombuffer(run_on_arm(tmp_path, code, data.tobytes(), 5, bytes(4096)), np.float32)
    vectors = data[: (chains + 2) * lanes].reshape(-1, lanes)
    repeats = 5 * plan.floats.per_iteration // (lanes * chains)
    expected = vectors[2:] + repeats * vectors[0] * vectors[1]
    assert np.array_equal(out[: chains * lanes].reshape(-1, lanes), expected)

    block = plan.read.per_iteration
    words = np.random.default_rng(0).integers(0, 2**32, 3 * block // 4, np.uint32)
    code = machine_code(plan.read, "aarch64", _PI4)
    blocks = struct.pack("<q", 3) + bytes(4088)
    out = np.frombuffer(run_on_arm(tmp_path, code, words.tobytes(), 4, blocks), np.uint32)
    read = np.concatenate([words, words[: block // 4]])
    width = plan.read.rows * plan.read.accumulator_bytes // 4
    assert np.array_equal(out[:width], np.bitwise_xor.reduce(read.reshape(-1, width), axis=0))

    a, b = 0x0123456789ABCDEF, 0x1111111122222222
    code = machine_code(plan.clock, "aarch64", _PI4)
    start = struct.pack("<q", b) + bytes(4088)
    (found,) = struct.unpack("<Q", run_on_arm(tmp_path, code, struct.pack("<q", a), 3, start)[:8])
    value = a
    for step in range(3 * plan.clock.per_iteration):
        value = (value + a) % 2**64 if step % 2 == 0 else value ^ b
    assert found == value
