"""All ceilings of this machine, each family in a child process of its own.

A runtime that is missing or crashes costs its own ceilings and is named in a note.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from mnv4_deploy.errors import ToolchainError, UnsupportedError
from mnv4_deploy.machine_records import Ceilings, Machine, MemoryLevel
from mnv4_deploy.profiles.isolated import run_isolated
from mnv4_deploy.profiles.machine.cpu import limits_macs_per_s, read_cpu
from mnv4_deploy.profiles.measure.conditions import spin_us

Progress = Callable[[str], None]

_TIMEOUT_S = 180.0
_SPINS, _BETWEEN_SPINS_S = 25, 0.01
_PACKAGES = ("ai-edge-litert", "onnxruntime", "llvmlite")
_STAGES = (
    ("independent", "instruction peaks and memory", "measure_independent"),
    ("xnnpack", "XNNPACK's fastest kernels", "measure_xnnpack"),
    ("onnxruntime", "onnxruntime's fastest kernels", "measure_onnxruntime"),
)
_METHOD = (
    "Best of many repeats. Runtimes: MACs over the runtime's own time of convolutions and matrix"
    " products of several shapes. Independent: loops of multiply-adds, and of vector loads over"
    " half of each cache and over DRAM, compiled by LLVM; outer caches and DRAM may be shared"
    " with other programs and virtual machines. Operator overhead: wall time by length of a chain"
    " of small additions. Clock: dependent additions on one core."
)


@dataclass(frozen=True)
class Part:
    """What one child process found."""

    peaks: dict[str, float]
    memory: tuple[MemoryLevel, ...] = ()
    clock_ghz: float | None = None
    op_overhead_us: float | None = None
    spin_us: float | None = None


@dataclass
class _Notes:
    lines: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        if line not in self.lines:
            self.lines.append(line)


def versions() -> dict[str, str]:
    """The installed versions that ceilings depend on; absent ones are left out."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def measure_ceilings(threads: int, progress: Progress | None = None) -> Ceilings:
    """Peaks, bandwidths and overheads with ``threads`` threads; about ten seconds.

    ``progress`` is told what is measured next. What cannot be measured here is absent. Raises
    UnsupportedError for a number of threads that this machine has not, ToolchainError where
    nothing at all can be measured.
    """
    return _measure(threads, progress, _Notes())


def measure_machine(threads: Sequence[int], progress: Progress | None = None) -> Machine:
    """This machine with ceilings for each of ``threads``; raises as :func:`measure_ceilings`."""
    cpu = read_cpu()
    notes = _Notes()
    ceilings = tuple(_measure(count, progress, notes) for count in sorted(set(threads)))
    clock = max((c.clock_ghz for c in ceilings if c.clock_ghz), default=None)
    return Machine(
        cpu=cpu.model,
        cores=cpu.cores,
        isa=cpu.isa,
        caches={cache.name: cache.size_bytes for cache in cpu.caches},
        measured_on=datetime.now(UTC).isoformat(timespec="seconds"),
        method=" ".join([_METHOD, *notes.lines]),
        versions={**versions(), "python": platform.python_version()},
        ceilings=ceilings,
        limits_macs_per_s=dict(limits_macs_per_s(clock, cpu.isa) or {}) if clock else {},
    )


def _measure(threads: int, progress: Progress | None, notes: _Notes) -> Ceilings:
    cpus = os.cpu_count() or 1
    if not 1 <= threads <= cpus:
        raise UnsupportedError(
            f"Ceilings cannot be measured with {threads} threads: give 1 to {cpus}, the number of"
            " CPUs here."
        )
    parts: dict[str, Part] = {}
    for source, title, function in _STAGES:
        if progress:
            progress(f"{title}, {threads} thread{'s' if threads > 1 else ''}")
        try:
            parts[source] = run_isolated(f"{__name__}:{function}", threads, timeout_s=_TIMEOUT_S)
        except ToolchainError as error:
            notes.add(f"Left out: {title}. {error}")
    if not parts:
        raise ToolchainError(
            "No ceiling of this machine could be measured: run pip install"
            " 'mnv4-deploy[runtimes]' llvmlite."
        )
    independent = parts.get("independent")
    return Ceilings(
        threads=threads,
        peak_macs_per_s={source: part.peaks for source, part in parts.items()},
        memory=independent.memory if independent else (),
        op_overhead_us={
            source: part.op_overhead_us
            for source, part in parts.items()
            if part.op_overhead_us is not None
        },
        spin_us=min(part.spin_us for part in parts.values() if part.spin_us is not None),
        clock_ghz=independent.clock_ghz if independent else None,
    )


def measure_independent(threads: int) -> Part:
    """Child process: everything that needs no runtime."""
    from mnv4_deploy.profiles.machine import kernels

    cpu = read_cpu()
    peaks = kernels.measure_peaks(cpu, threads)
    return Part(
        peaks=peaks.by_compute(),
        memory=kernels.measure_memory(cpu, threads),
        clock_ghz=peaks.clock_ghz,
        spin_us=_undisturbed_spin_us(),
    )


def measure_xnnpack(threads: int) -> Part:
    """Child process: XNNPACK through LiteRT."""
    from mnv4_deploy.profiles.machine import peaks

    return _runtime_part(threads, peaks.xnnpack_peaks, peaks.xnnpack_op_overhead_us)


def measure_onnxruntime(threads: int) -> Part:
    """Child process: onnxruntime."""
    from mnv4_deploy.profiles.machine import peaks

    _needs_onnx()
    return _runtime_part(threads, peaks.onnxruntime_peaks, peaks.onnxruntime_op_overhead_us)


def _runtime_part(
    threads: int, peaks: Callable[[int], dict[str, float]], overhead: Callable[[int], Any]
) -> Part:
    return Part(
        peaks=peaks(threads),
        op_overhead_us=float(overhead(threads)),
        spin_us=_undisturbed_spin_us(),
    )


def _undisturbed_spin_us() -> float:
    """The fixed work of ``spin_us`` at its fastest, over half a second: neighbours come and go."""
    fastest = spin_us()
    for _ in range(_SPINS):
        time.sleep(_BETWEEN_SPINS_S)
        fastest = min(fastest, spin_us())
    return fastest


def _needs_onnx() -> None:
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise ToolchainError(
            "Measuring onnxruntime's peak needs onnx: run pip install 'mnv4-deploy[onnx]'."
        ) from error
