"""Ceilings measured without any runtime: loops compiled by LLVM for the processor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from mnv4_deploy.profiles.machine.cpu import Cpu, limits_macs_per_s
from mnv4_deploy.profiles.machine.kernels import tile_ir
from mnv4_deploy.profiles.machine.kernels.loaded import RunnableKernel
from mnv4_deploy.profiles.machine.kernels.loop_ir import Kernel
from mnv4_deploy.profiles.machine.kernels.plan import KernelPlan, plan_for
from mnv4_deploy.profiles.machine.kernels.rates import Canary, Job, aligned, best_rates, floats
from mnv4_deploy.profiles.machine.memory import level_buffers, memory_levels
from mnv4_deploy.profiles.records.machine import MemoryLevel

_PANEL_BYTES = 16384
_CLOCK_SAMPLES = 40


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


class Kernels(NamedTuple):
    """The kernels of a processor and what makes them run."""

    plan: KernelPlan
    load: Callable[[Kernel], RunnableKernel]


def compiled_here(cpu: Cpu) -> Kernels:
    """Kernels compiled for this processor when they are loaded, which needs llvmlite."""
    from mnv4_deploy.profiles.machine.kernels.compiled import CompiledKernel

    return Kernels(plan_for(cpu.isa), CompiledKernel)


def canary_for(cpu: Cpu, threads: int, kernels: Kernels) -> Canary | None:
    """Multiply-adds, which clock and instruction set bound; None where that is not known."""
    chain = Job(kernels.load(kernels.plan.clock), [floats()])
    clock_ghz = max(chain.sample_per_s() for _ in range(_CLOCK_SAMPLES)) / 1e9
    limits = limits_macs_per_s(clock_ghz, cpu.isa)
    if limits is None:
        return None
    fma = Job(kernels.load(kernels.plan.floats), [floats() for _ in range(threads)])
    return Canary(fma, limits["float32"] * threads)


def measure_peaks(cpu: Cpu, threads: int, kernels: Kernels | None = None) -> IndependentPeaks:
    """Clock (of one core alone) and peak MAC/s of all ``threads`` together.

    ``kernels`` None compiles them here, and raises ToolchainError without llvmlite.
    """
    plan, load = kernels = kernels or compiled_here(cpu)
    small = [floats() for _ in range(threads)]
    panels = [aligned(_PANEL_BYTES) for _ in range(threads)]
    rates = best_rates(
        {
            "clock": Job(load(plan.clock), small[:1]),
            "float32": Job(load(plan.floats), small),
            **{kernel.name: Job(load(kernel), panels) for kernel in plan.integers},
        },
        canary_for(cpu, threads, kernels),
    )
    return IndependentPeaks(
        clock_ghz=rates["clock"] / 1e9,
        float32=rates["float32"],
        macs_per_s={kernel.name: rates[kernel.name] for kernel in plan.integers},
        exact=frozenset(kernel.name for kernel in plan.integers if not kernel.saturates),
    )


def measure_memory(
    cpu: Cpu, threads: int, kernels: Kernels | None = None
) -> tuple[MemoryLevel, ...]:
    """Bandwidth of all ``threads`` together, of each cache and of DRAM.

    The better of reading one stream and of adding one to another, all bytes counted.
    ``kernels`` as in :func:`measure_peaks`.
    """
    plan, load = kernels = kernels or compiled_here(cpu)
    streams = [load(plan.read), load(plan.add)]
    unit = max(stream.kernel.block_bytes for stream in streams)
    jobs = {}
    for name, buffers in level_buffers(cpu, threads, unit).items():
        for stream in streams:
            blocks = buffers[0].size // stream.kernel.block_bytes
            jobs[name, stream.kernel.name] = Job(stream, buffers, blocks=blocks)
    return memory_levels(cpu, threads, best_rates(jobs, canary_for(cpu, threads, kernels)))
