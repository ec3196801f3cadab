"""The loops compute what they claim (so nothing was optimised away), at possible rates."""

import itertools
import platform
import re
import time

import numpy as np
import pytest

from mnv4_deploy.profiles.machine.cpu import limits_macs_per_s, read_cpu
from mnv4_deploy.profiles.machine.kernels import integer_ir, loop_ir, rates, tile_ir
from mnv4_deploy.profiles.machine.kernels.compiled import CompiledKernel
from mnv4_deploy.profiles.machine.kernels.rates import aligned
from tests.profiles.hasty import machine_here

llvm = pytest.importorskip("llvmlite.binding")

_CPU = read_cpu()
_ITERATIONS = 21  # no multiple of the panel's blocks
_X86 = ("sse4_1", "avx", "avx2", "fma")
_AVX512 = (*_X86, "avx512f", "avx512bw", "avx512vl", "avx512_vnni")


@pytest.fixture
def ceilings(shared):
    """What one thread multiplies and reads here; measuring takes seconds."""
    (found,) = machine_here(shared).ceilings
    return found


def _out() -> np.ndarray:
    return np.zeros(4096, np.uint8)


def test_read_reads_every_byte_and_starts_again():
    kernel = CompiledKernel(loop_ir.read(_CPU.isa))
    block = kernel.kernel.per_iteration
    data = aligned(3 * block)
    data[:] = np.random.default_rng(0).integers(0, 256, data.size)
    out = _out()
    out.view(np.int64)[0] = 3
    kernel(data, 4, out)  # blocks 0, 1, 2, 0
    words = np.concatenate([data, data[:block]]).view(np.uint32)
    lanes = kernel.kernel.rows * kernel.kernel.accumulator_bytes // 4
    expected = np.bitwise_xor.reduce(words.reshape(-1, lanes), axis=0)
    assert np.array_equal(out.view(np.uint32)[:lanes], expected)


def test_add_adds_the_second_half_of_every_block_to_the_first():
    kernel = CompiledKernel(loop_ir.add(_CPU.isa))
    block = kernel.kernel.block_bytes
    data = aligned(3 * block)
    data[:] = np.random.default_rng(0).integers(0, 256, data.size)
    before = data.view(np.uint32).reshape(3, 2, -1).copy()
    out = _out()
    out.view(np.int64)[0] = 3
    kernel(data, 4, out)  # blocks 0, 1, 2, 0
    first, second = before[:, 0], before[:, 1]
    expected = np.stack([first + second * np.array([[2], [1], [1]], np.uint32), second], axis=1)
    assert np.array_equal(data.view(np.uint32), expected.reshape(-1))


def test_fma_adds_a_product_to_every_accumulator_each_time():
    kernel = CompiledKernel(loop_ir.fma(_CPU.isa))
    if kernel.kernel.name != "fma":
        pytest.skip("no fused multiply-add here")
    lanes, chains = kernel.kernel.vector_bytes // 4, kernel.kernel.rows
    data = aligned(4096).view(np.float32)
    data[:] = np.arange(data.size) % 7  # small integers: float32 sums are exact
    out = _out()
    kernel(data, _ITERATIONS, out)
    vectors = data[: (chains + 2) * lanes].reshape(-1, lanes)
    repeats = kernel.kernel.per_iteration // (lanes * chains)
    expected = vectors[2:] + repeats * _ITERATIONS * vectors[0] * vectors[1]
    assert np.array_equal(out.view(np.float32)[: chains * lanes].reshape(-1, lanes), expected)


def _reference(kernel, panel: np.ndarray) -> np.ndarray:
    """Sums by row, column and lane, by plain NumPy from the instructions' definitions."""
    rows, columns = kernel.rows, kernel.columns
    lanes = kernel.accumulator_bytes // 4
    element = np.int16 if "widened before" in kernel.name else np.int8
    total = np.zeros((rows, columns, lanes), np.int64)
    blocks = panel.view(element).reshape(integer_ir.PANEL_STEPS, rows + columns, -1)
    steps = _ITERATIONS * kernel.per_iteration // (rows * columns * blocks.shape[2])
    for step in range(steps):
        vectors = blocks[step % integer_ir.PANEL_STEPS].astype(np.int64)
        a, b = vectors[:rows, None], vectors[None, rows:]
        if "vpmaddubsw" in kernel.name or "vpdpbusd" in kernel.name:
            a = a & 0xFF  # the first operand is unsigned
        products = a * b
        if kernel.saturates:
            pairs = products.reshape(rows, columns, -1, 2).sum(-1)
            products = np.clip(pairs, -32768, 32767)
        total += products.reshape(rows, columns, lanes, -1).sum(-1)
    return total


@pytest.mark.parametrize("kernel", integer_ir.integer_kernels(_CPU.isa), ids=lambda k: k.name)
def test_integer_sequences_compute_inner_products(kernel):
    if kernel.name == "smmla":
        pytest.skip("multiplies 2x8 matrices, not lane by lane")
    size = integer_ir.PANEL_STEPS * (kernel.rows + kernel.columns) * kernel.vector_bytes
    panel = aligned(size)
    panel[:] = np.random.default_rng(1).integers(0, 256, size)
    out = _out()
    CompiledKernel(kernel)(panel, _ITERATIONS, out)
    expected = _reference(kernel, panel).astype(np.int32)  # wraps as the registers do
    assert np.array_equal(out.view(np.int32)[: expected.size].reshape(expected.shape), expected)


def test_tile_of_xnnpack_computes_inner_products():
    kernel = tile_ir.xnnpack_tile(_CPU.isa)
    if kernel is None:
        pytest.skip("XNNPACK has wider kernels here")
    steps = tile_ir.STEPS_PER_BLOCK * tile_ir.BLOCKS
    panel = aligned(steps * tile_ir.STEP_BYTES)
    panel[:] = np.random.default_rng(2).integers(0, 256, panel.size)
    out = _out()
    CompiledKernel(kernel)(panel, tile_ir.BLOCKS, out)
    # Every step: three rows of eight, then eight columns of eight.
    values = panel.view(np.int8).astype(np.int64).reshape(steps, -1, tile_ir.DEPTH)
    rows, columns = values[:, : tile_ir.ROWS], values[:, tile_ir.ROWS :]
    expected = np.einsum("srk,sck->rc", rows, columns)
    sums = out.view(np.int32)[: tile_ir.ROWS * tile_ir.REGISTERS * 8]
    # A column's sum lies in four lanes of two products each.
    assert np.array_equal(sums.reshape(tile_ir.ROWS, -1, 4).sum(-1), expected)
    assert kernel.per_iteration * tile_ir.BLOCKS == steps * tile_ir.ROWS * 8 * tile_ir.DEPTH


def test_tile_of_xnnpack_is_left_out_where_it_does_not_run():
    assert tile_ir.xnnpack_tile(_AVX512) is None
    assert tile_ir.xnnpack_tile(("neon",)) is None


def test_saturation_is_real_where_it_is_claimed():
    """255 * 127 + 255 * 127 does not fit 16 bits: the exact sequences must not be cut off."""
    found = {}
    for kernel in integer_ir.integer_kernels(_X86):
        if not set(_X86) <= set(_CPU.isa):
            pytest.skip("another processor")
        panel = aligned(16384)
        panel.view(np.int8)[:] = 127
        if kernel.saturates:
            panel[:] = 127
            step = (kernel.rows + kernel.columns) * kernel.vector_bytes
            for start in range(0, integer_ir.PANEL_STEPS * step, step):
                panel[start : start + kernel.rows * kernel.vector_bytes] = 255
        out = _out()
        CompiledKernel(kernel)(panel, 1, out)
        found[kernel.name] = (kernel.saturates, int(out.view(np.int32)[0]))
    steps = 2
    saturating = [value for saturates, value in found.values() if saturates]
    assert saturating == [2 * 32767 * steps]  # instead of 4 * 255 * 127 * steps


def _assembly(ir: str, triple: str, cpu: str) -> str:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = llvm.parse_assembly(ir)
    module.verify()
    return str(
        llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, opt=2).emit_assembly(module)
    )


def _loop_of(assembly: str) -> str:
    """From the loop's label to its backward branch."""
    match = re.search(
        r"^(\.LBB0_\d+):.*?^\s*(?:j\w+|b\.\w+|cbnz.*,|tbnz.*,)\s+\1$", assembly, re.S | re.M
    )
    assert match, assembly
    return match[0]


@pytest.mark.parametrize(
    ("isa", "cpu", "expected"),
    [
        (_X86, "haswell", {"vpmaddwd": 3, "vpmaddubsw": 1}),
        ((*_X86, "avx_vnni"), "alderlake", {"vpmaddwd": 3, "vpmaddubsw": 1, "vpdpbusd": 1}),
        (_AVX512, "icelake-server", {"vpmaddwd": 6, "vpmaddubsw": 2, "vpdpbusd": 2}),
        (("neon", "dotprod", "i8mm"), "neoverse-v1", {"smull": 1, "sdot": 1, "smmla": 1}),
        (("neon",), "cortex-a53", {"smull": 1}),
    ],
)
def test_each_instruction_set_gets_its_instructions(isa, cpu, expected):
    """Also of processors that are not here; the loop keeps its accumulators in registers."""
    triple = "aarch64-linux-gnu" if "neon" in isa else "x86_64-linux-gnu"
    found: dict[str, int] = {}
    for kernel in integer_ir.integer_kernels(isa):
        loop = _loop_of(_assembly(kernel.ir, triple, cpu))
        for name in expected:
            found[name] = found.get(name, 0) + (f"\t{name}\t" in loop)
        assert "sp]" not in loop and "sp)" not in loop, kernel.name
    assert found == expected
    loop = _loop_of(_assembly(loop_ir.fma(isa).ir, triple, cpu))
    fused = "fmla" if "neon" in isa else "vfmadd"
    per_loop = loop_ir.fma(isa).per_iteration * 4 // loop_ir.fma(isa).vector_bytes
    assert len(re.findall(rf"\t{fused}\w*\t", loop)) == per_loop


def test_no_integer_sequence_for_an_unknown_instruction_set():
    assert integer_ir.integer_kernels(()) == ()
    assert "call" not in loop_ir.fma(()).ir  # would be a library call for every product


def test_peaks_stay_below_what_clock_and_instruction_set_allow(ceilings):
    assert 0.3 < ceilings.clock_ghz < 8
    limits = limits_macs_per_s(ceilings.clock_ghz, _CPU.isa)
    if limits is None:
        pytest.skip("no limits known for this instruction set")
    for compute, rate in ceilings.peak_macs_per_s["independent"].items():
        limit = limits["int8" if compute == tile_ir.NAME else compute]
        assert rate <= 1.05 * limit
        # A clock that other load halves for a moment still leaves half a float pipe.
        assert rate > limit / 40


def test_nearer_memory_is_faster(ceilings):
    memory = ceilings.memory
    assert [level.name for level in memory] == [*(c.name for c in _CPU.caches), "DRAM"]
    assert memory[-1].capacity_bytes is None
    for near, far in itertools.pairwise(memory):
        assert near.bytes_per_s > 0.7 * far.bytes_per_s
    if len(memory) > 2:
        assert memory[0].bytes_per_s > 1.3 * memory[-1].bytes_per_s


def _fastest_s(work) -> float:
    times = []
    for _ in range(10):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


@pytest.mark.skipif(platform.system() == "Darwin", reason="sgemm uses a matrix unit there")
def test_numpys_sgemm_does_not_beat_the_multiply_adds(ceilings):
    a = np.ones((384, 384), np.float32)
    rate = a.size * 384 / _fastest_s(lambda: a @ a)
    cores = _CPU.cores  # NumPy may use them all
    assert rate < 1.3 * cores * ceilings.peak("independent", "float32")


def test_numpy_does_not_read_faster_than_memory_allows(ceilings):
    array = np.ones(1 << 24, np.float32)
    rate = array.nbytes / _fastest_s(array.max)
    fits = [
        lv for lv in ceilings.memory if (lv.capacity_bytes or array.nbytes) >= array.nbytes / 2
    ]
    assert rate < 1.5 * fits[0].bytes_per_s


class _Steps:
    """A job whose samples are given."""

    def __init__(self, *rates: float) -> None:
        self._rates = itertools.cycle(rates)

    def sample_per_s(self) -> float:
        return next(self._rates)


def test_rounds_go_on_until_enough_were_quiet():
    """The fast sample comes late: without the canary's word it would be missed."""
    slow = [50.0] * 150
    jobs = {"job": _Steps(*slow, 100.0, *[99.0] * 400)}
    assert rates.best_rates(jobs, None) == {"job": 50.0}
    jobs = {"job": _Steps(*slow, 100.0, *[99.0] * 400)}
    waking = rates.Canary(_Steps(*[0.5] * 160, *[1.0] * 400), limit_per_s=1.0)
    assert rates.best_rates(jobs, waking) == {"job": 100.0}


def test_a_machine_that_is_never_quiet_is_measured_all_the_same():
    busy = rates.Canary(_Steps(0.5), limit_per_s=1.0)
    assert rates.best_rates({"job": _Steps(7.0)}, busy) == {"job": 7.0}


def test_threads_add_up_and_do_not_multiply():
    if read_cpu().cores < 2:
        pytest.skip("one core")
    buffers = [aligned(4096) for _ in range(2)]
    for buffer in buffers:
        buffer.view(np.float32)[:] = 1e-3
    kernel = CompiledKernel(loop_ir.fma(_CPU.isa))
    jobs = {"one": rates.Job(kernel, buffers[:1]), "two": rates.Job(kernel, buffers)}
    found = rates.best_rates(jobs, None)
    assert 0.5 * found["one"] < found["two"] < 2.2 * found["one"]
