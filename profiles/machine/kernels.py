"""Ceilings measured without any runtime: loops compiled by LLVM for this processor.

Rates are the best of several repeats, because everything that disturbs only ever slows down.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv4_deploy.errors import ToolchainError
from mnv4_deploy.machine_records import MemoryLevel
from mnv4_deploy.profiles.machine import integer_ir, kernel_ir, tile_ir
from mnv4_deploy.profiles.machine.cpu import Cpu, limits_macs_per_s
from mnv4_deploy.profiles.machine.kernel_ir import Kernel

_ALIGNMENT = 64
_OUT_BYTES = 4096
_PANEL_BYTES = 16384
# Short samples and many: some of them fall between other programs' turns.
_SAMPLE_S, _SAMPLE_S_TOGETHER = 0.002, 0.003
_ROUNDS, _SAMPLES = 24, 2
_QUIET, _QUIET_ROUNDS, _MOST_ROUNDS = 0.96, 8, 120
_CLOCK_SAMPLES = 40
_DRAM_BYTES, _DRAM_MOST_BYTES = 256 << 20, 2 << 30
_DRAM_TIMES_LAST_CACHE = 4


@dataclass(frozen=True)
class IndependentPeaks:
    """``macs_per_s`` by instruction sequence; float32 is "fma" or, without it, "mul + add"."""

    clock_ghz: float
    float32: float
    macs_per_s: dict[str, float]
    exact: frozenset[str]

    def by_compute(self) -> dict[str, float]:
        """By compute type. Kernels whose sums saturate serve uint8 and run-time quantization;
        static int8 of TFLite is exact, and bounded by the tile of its kernels where that is known.
        """
        peaks = {"float32": self.float32}
        if self.macs_per_s:
            fastest = max(self.macs_per_s.values())
            exact = max(r for name, r in self.macs_per_s.items() if name in self.exact)
            peaks |= {"int8": exact, "uint8": fastest, "int8 dynamic": fastest}
        if tile_ir.NAME in self.macs_per_s:
            peaks[tile_ir.NAME] = self.macs_per_s[tile_ir.NAME]
        return peaks


class CompiledKernel:
    """A kernel as machine code. Calling it releases Python's interpreter lock."""

    def __init__(self, kernel: Kernel) -> None:
        llvm = _llvm()
        self.kernel = kernel
        module = llvm.parse_assembly(kernel.ir)
        module.verify()
        machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(),
            # The host's own list: a hypervisor may hide what the processor's name promises.
            features=llvm.get_host_cpu_features().flatten(),
            opt=2,
        )
        self._engine = llvm.create_mcjit_compiler(module, machine)
        self._engine.finalize_object()
        prototype = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)
        self._call = prototype(self._engine.get_function_address("kernel"))

    def __call__(self, data: NDArray[Any], iterations: int, out: NDArray[Any]) -> None:
        self._call(data.ctypes.data, iterations, out.ctypes.data)


def _llvm() -> Any:
    try:
        from llvmlite import binding
    except ImportError as error:
        raise ToolchainError(
            "Ceilings that depend on no runtime need llvmlite: run pip install llvmlite."
        ) from error
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding


def aligned(size_bytes: int) -> NDArray[np.uint8]:
    """``size_bytes`` bytes of touched, non-zero memory at a cache line's border."""
    raw = np.empty(size_bytes + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    block = raw[start : start + size_bytes]
    # A page never written may share one page of zeros with all others, and stay in cache.
    block[:] = 1
    return block


def _floats() -> NDArray[np.uint8]:
    """Small floats: sums of their products must not overflow into values that are slow."""
    block = aligned(_OUT_BYTES)
    block.view(np.float32)[:] = 1e-3
    return block


class Job:
    """A kernel on a buffer for each thread, repeated for a few milliseconds at a time.

    ``blocks`` are those of each buffer, where the kernel reads them.
    """

    def __init__(
        self, kernel: CompiledKernel, buffers: Sequence[NDArray[Any]], *, blocks: int = 0
    ) -> None:
        self._kernel, self._buffers, self._blocks = kernel, buffers, blocks
        self._outs = [np.zeros(_OUT_BYTES // 8, np.int64) for _ in buffers]
        self._iterations = max(blocks, 1000)
        # Threads do not start together to the microsecond, so several need longer samples.
        sample_s = _SAMPLE_S if len(buffers) == 1 else _SAMPLE_S_TOGETHER
        while (took := _seconds(lambda: self._work(0))) < sample_s:
            self._iterations = int(self._iterations * max(1.5, min(100.0, sample_s / took)))

    def _work(self, thread: int) -> None:
        self._outs[thread][0] = self._blocks
        self._kernel(self._buffers[thread], self._iterations, self._outs[thread])

    def sample_per_s(self) -> float:
        """Units (see ``Kernel.per_iteration``) a second over all threads, measured once."""
        took = _together(self._work, len(self._buffers))
        return self._kernel.kernel.per_iteration * self._iterations * len(self._buffers) / took


@dataclass(frozen=True)
class Canary:
    """Work whose limit is known: as long as it falls short, something else is running."""

    job: Job
    limit_per_s: float

    def is_quiet(self) -> bool:
        return self.job.sample_per_s() >= _QUIET * self.limit_per_s


def canary_for(cpu: Cpu, threads: int) -> Canary | None:
    """Multiply-adds, which clock and instruction set bound; None where that is not known."""
    chain = Job(CompiledKernel(kernel_ir.clock()), [_floats()])
    clock_ghz = max(chain.sample_per_s() for _ in range(_CLOCK_SAMPLES)) / 1e9
    limits = limits_macs_per_s(clock_ghz, cpu.isa)
    if limits is None:
        return None
    fma = Job(CompiledKernel(kernel_ir.fma(cpu.isa)), [_floats() for _ in range(threads)])
    return Canary(fma, limits["float32"] * threads)


def best_rates(jobs: Mapping[str, Job], canary: Canary | None) -> dict[str, float]:
    """The best sample of each job. They take turns, for a disturbance can last a while.

    Rounds go on until enough of them were quiet from end to end, or time is up.
    """
    best = dict.fromkeys(jobs, 0.0)
    quiet = 0
    for index in range(_MOST_ROUNDS):
        if index >= _ROUNDS and (canary is None or quiet >= _QUIET_ROUNDS):
            break
        before = canary is not None and canary.is_quiet()
        for name, job in jobs.items():
            for _ in range(_SAMPLES):
                best[name] = max(best[name], job.sample_per_s())
        quiet += before and canary is not None and canary.is_quiet()
    return best


def _together(work: Callable[[int], None], threads: int) -> float:
    """Seconds from the first thread's start to the last one's end."""
    if threads == 1:
        return _seconds(lambda: work(0))
    barrier = threading.Barrier(threads)
    starts, ends = [0.0] * threads, [0.0] * threads

    def run(thread: int) -> None:
        barrier.wait()
        starts[thread] = time.perf_counter()
        work(thread)
        ends[thread] = time.perf_counter()

    pool = [threading.Thread(target=run, args=(k,)) for k in range(threads)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    return max(ends) - min(starts)


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure_peaks(cpu: Cpu, threads: int) -> IndependentPeaks:
    """Clock (of one core alone) and peak MAC/s of all ``threads`` together.

    Raises ToolchainError without llvmlite.
    """
    floats = [_floats() for _ in range(threads)]
    panels = [aligned(_PANEL_BYTES) for _ in range(threads)]
    tile = tile_ir.xnnpack_tile(cpu.isa)
    integers = (*integer_ir.integer_kernels(cpu.isa), *((tile,) if tile else ()))
    rates = best_rates(
        {
            "clock": Job(CompiledKernel(kernel_ir.clock()), floats[:1]),
            "float32": Job(CompiledKernel(kernel_ir.fma(cpu.isa)), floats),
            **{kernel.name: Job(CompiledKernel(kernel), panels) for kernel in integers},
        },
        canary_for(cpu, threads),
    )
    return IndependentPeaks(
        clock_ghz=rates["clock"] / 1e9,
        float32=rates["float32"],
        macs_per_s={kernel.name: rates[kernel.name] for kernel in integers},
        exact=frozenset(kernel.name for kernel in integers if not kernel.saturates),
    )


def measure_memory(cpu: Cpu, threads: int) -> tuple[MemoryLevel, ...]:
    """Bandwidth of all ``threads`` together, of each cache and of DRAM.

    The better of reading one stream and of adding one to another, all bytes counted.

    Each thread reads a buffer of its own; together they fill half of what they have of a cache,
    so that other data does not push them out, and several times the last one for DRAM.
    """
    last = cpu.caches[-1].capacity_bytes(threads) if cpu.caches else 0
    wanted = max(_DRAM_BYTES, _DRAM_TIMES_LAST_CACHE * last)
    dram = min(wanted, _DRAM_MOST_BYTES, _available_bytes() // 2)
    capacities: dict[str, int | None] = {c.name: c.capacity_bytes(threads) for c in cpu.caches}
    sizes = {name: capacity // 2 for name, capacity in capacities.items() if capacity}
    jobs = {}
    for kernel in map(CompiledKernel, (kernel_ir.read(cpu.isa), kernel_ir.add(cpu.isa))):
        block = kernel.kernel.block_bytes
        for name, size in {**sizes, "DRAM": dram}.items():
            blocks = max(1, size // threads // block)
            buffers = [aligned(blocks * block) for _ in range(threads)]
            jobs[f"{kernel.kernel.name} {name}"] = Job(kernel, buffers, blocks=blocks)
    rates = best_rates(jobs, canary_for(cpu, threads))
    return tuple(
        MemoryLevel(name, capacities.get(name), max(rates[f"read {name}"], rates[f"add {name}"]))
        for name in (*sizes, "DRAM")
    )


def _available_bytes() -> int:
    """Memory that can be had without swapping; a modest guess where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvail"))
    except (OSError, StopIteration, ValueError, IndexError):
        return 1 << 30
