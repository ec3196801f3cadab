"""All ceilings of this machine, each family in a child process of its own.

A runtime that is missing or crashes costs its own ceilings and is named in a note. A device
measures them with a kit (:mod:`mnv4_deploy.profiles.machine.kit`), which is a file because the
child processes read it too.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any

from mnv4_deploy.errors import DeployError, ToolchainError, UnsupportedError, missing_library
from mnv4_deploy.profiles.isolated import run_isolated
from mnv4_deploy.profiles.machine.cpu import limits_macs_per_s, read_cpu
from mnv4_deploy.profiles.measure.conditions import spin_us
from mnv4_deploy.profiles.records.machine import Ceilings, Machine, MemoryLevel

if TYPE_CHECKING:
    from mnv4_deploy.profiles.machine.kit import PeakKit

Measure = Callable[[int, "str | None"], "Part"]

# With a kit: boards are slower, and never quiet where cores are narrower than limits assume.
_TIMEOUT_S, _KIT_TIMEOUT_S = 180.0, 600.0
_SPINS, _BETWEEN_SPINS_S = 25, 0.01
_PACKAGES = ("ai-edge-litert", "onnxruntime", "llvmlite")
_METHOD = (
    "Best of many repeats. Runtimes: MACs over the runtime's own time of convolutions and matrix"
    " products of several shapes. Independent: loops of multiply-adds, and of vector loads over"
    " half of each cache and over DRAM, compiled by LLVM; outer caches and DRAM may be shared"
    " with other programs and virtual machines. Operator overhead: wall time by length of a chain"
    " of small additions. Clock: dependent additions on one core."
)
_NUMPY_METHOD = (
    "Memory is measured by NumPy adding one array to another in place, two reads and a write"
    " counted: more may be possible."
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


def measure_machine(threads: Sequence[int], kit: str | None = None) -> Machine:
    """This machine with ceilings for each of ``threads``; about ten seconds for each.

    What cannot be measured here is absent. Raises UnsupportedError for a number of threads that
    this machine has not, MissingLibraryError where nothing can be measured. ``kit`` is the file
    of a kit to measure with, in place of llvmlite and onnx; raises ToolchainError where it is
    damaged, UnsupportedError where nothing can be measured with it.
    """
    cpu = read_cpu()
    made_by = _read(kit).versions if kit else {}
    notes = _Notes()
    ceilings = tuple(_measure(count, notes, kit) for count in sorted(set(threads)))
    clock = max((c.clock_ghz for c in ceilings if c.clock_ghz), default=None)
    return Machine(
        cpu=cpu.model,
        cores=cpu.cores,
        isa=cpu.isa,
        caches={cache.name: cache.size_bytes for cache in cpu.caches},
        # Python 3.10 of a device has no datetime.UTC.
        measured_on=datetime.now(timezone.utc).isoformat(timespec="seconds"),  # noqa: UP017
        method=" ".join([_METHOD, *notes.lines]),
        versions={**made_by, **versions(), "python": platform.python_version()},
        ceilings=ceilings,
        limits_macs_per_s=dict(limits_macs_per_s(clock, cpu.isa) or {}) if clock else {},
    )


def _measure(threads: int, notes: _Notes, kit: str | None) -> Ceilings:
    cpus = os.cpu_count() or 1
    if not 1 <= threads <= cpus:
        raise UnsupportedError(
            f"Ceilings cannot be measured with {threads} threads: give 1 to {cpus}, the number of"
            " CPUs here."
        )
    parts: dict[str, Part] = {}

    def run(source: str, title: str, function: Measure) -> None:
        try:
            parts[source] = run_isolated(
                function,
                threads,
                kit,
                timeout_s=_KIT_TIMEOUT_S if kit else _TIMEOUT_S,
            )
        except DeployError as error:
            notes.add(f"Left out: {title}. {error}")

    for stage in _STAGES:
        run(*stage)
    if kit and "independent" not in parts:
        run(*_WITHOUT_KERNELS)
        if "independent" in parts:
            notes.add(_NUMPY_METHOD)
    if not parts:
        raise _nothing(notes, kit)
    independent = parts.get("independent")
    return Ceilings(
        threads=threads,
        peak_macs_per_s={source: part.peaks for source, part in parts.items() if part.peaks},
        memory=independent.memory if independent else (),
        op_overhead_us={
            source: part.op_overhead_us
            for source, part in parts.items()
            if part.op_overhead_us is not None
        },
        spin_us=min(part.spin_us for part in parts.values() if part.spin_us is not None),
        clock_ghz=independent.clock_ghz if independent else None,
    )


def _nothing(notes: _Notes, kit: str | None) -> DeployError:
    if kit:
        return UnsupportedError(
            "No ceiling of the device could be measured. " + " ".join(notes.lines)
        )
    return missing_library(
        "No ceiling of this machine could be measured without a runtime or llvmlite", "profile"
    )


def measure_independent(threads: int, kit: str | None) -> Part:
    """Child process: everything that needs no runtime."""
    from mnv4_deploy.profiles.machine import independent

    cpu = read_cpu()
    compiled = _read(kit).kernels_for(cpu) if kit else independent.compiled_here(cpu)
    peaks = independent.measure_peaks(cpu, threads, compiled)
    return Part(
        peaks=peaks.by_compute(),
        memory=independent.measure_memory(cpu, threads, compiled),
        clock_ghz=peaks.clock_ghz,
        spin_us=_undisturbed_spin_us(),
    )


def measure_numpy(threads: int, kit: str | None) -> Part:
    """Child process: what is left without kernels."""
    from mnv4_deploy.profiles.machine.memory import numpy_memory

    del kit
    return Part(peaks={}, memory=numpy_memory(read_cpu(), threads), spin_us=_undisturbed_spin_us())


def measure_xnnpack(threads: int, kit: str | None) -> Part:
    """Child process: XNNPACK through LiteRT, which brings what its files are written with."""
    from mnv4_deploy.profiles.machine import peaks

    del kit
    _needs_litert()
    return _runtime_part(threads, peaks.xnnpack_peaks, peaks.xnnpack_op_overhead_us)


def measure_onnxruntime(threads: int, kit: str | None) -> Part:
    """Child process: onnxruntime."""
    from mnv4_deploy.profiles.machine import peaks
    from mnv4_deploy.profiles.machine.kit import unpacked
    from mnv4_deploy.profiles.runtimes.ort.session import import_onnxruntime

    import_onnxruntime()
    if kit is None:
        _needs_onnx()
        files = peaks.ONNX
    elif models := _read(kit).models:
        files = peaks.sent_models(unpacked(models))
    else:
        raise UnsupportedError("The models for it could not be written where onnx is missing.")
    return _runtime_part(
        threads,
        partial(peaks.onnxruntime_peaks, files=files),
        partial(peaks.onnxruntime_op_overhead_us, files=files),
    )


def _read(kit: str) -> PeakKit:
    from mnv4_deploy.profiles.machine.kit import read_kit

    return read_kit(kit)


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
        raise missing_library("Measuring onnxruntime's peak needs onnx", "onnx") from error


def _needs_litert() -> None:
    from mnv4_deploy.profiles.runtimes.litert.library import load_library

    load_library()
    try:
        import flatbuffers  # noqa: F401
        from ai_edge_litert import schema_py_generated  # noqa: F401
    except ImportError as error:
        raise ToolchainError(
            f"Measuring XNNPACK's peak needs {error.name}, which comes with ai-edge-litert:"
            " reinstall it."
        ) from error


# What is measured, under which title, by which function.
_STAGES: tuple[tuple[str, str, Measure], ...] = (
    ("independent", "instruction peaks and memory", measure_independent),
    ("xnnpack", "XNNPACK's fastest kernels", measure_xnnpack),
    ("onnxruntime", "onnxruntime's fastest kernels", measure_onnxruntime),
)
# In place of the first where a device cannot run its kernels.
_WITHOUT_KERNELS: tuple[str, str, Measure] = ("independent", "memory by NumPy", measure_numpy)
