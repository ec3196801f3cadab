"""The levels of memory whose bandwidth is measured, and NumPy's measure of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv4_deploy.profiles.machine.cpu import Cpu
from mnv4_deploy.profiles.machine.kernels.loop_ir import Kernel
from mnv4_deploy.profiles.machine.kernels.rates import Job, aligned, best_rates
from mnv4_deploy.profiles.records.machine import MemoryLevel

_DRAM = "DRAM"
_DRAM_BYTES, _DRAM_MOST_BYTES = 256 << 20, 2 << 30
_DRAM_TIMES_LAST_CACHE = 4
_NUMPY_UNIT_BYTES = 128
# A call of NumPy costs half a microsecond: shorter additions are repeated within one call.
_FEW_ADDITIONS = 64


def level_buffers(cpu: Cpu, threads: int, unit_bytes: int) -> dict[str, list[NDArray[np.uint8]]]:
    """A buffer of whole units for each thread, by level from L1 to DRAM.

    Together they fill half of what the threads have of a cache, so that other data does not push
    them out, and several times the last one for DRAM.
    """
    sizes = {cache.name: cache.capacity_bytes(threads) // 2 for cache in cpu.caches}
    last = cpu.caches[-1].capacity_bytes(threads) if cpu.caches else 0
    wanted = max(_DRAM_BYTES, _DRAM_TIMES_LAST_CACHE * last)
    sizes[_DRAM] = min(wanted, _DRAM_MOST_BYTES, _available_bytes() // 2)
    return {
        name: [aligned(max(1, size // threads // unit_bytes) * unit_bytes) for _ in range(threads)]
        for name, size in sizes.items()
    }


def memory_levels(
    cpu: Cpu, threads: int, rates: Mapping[tuple[str, str], float]
) -> tuple[MemoryLevel, ...]:
    """The best of ``rates`` in bytes/s, by level and way of measuring, for each level."""
    capacities: dict[str, int | None] = {c.name: c.capacity_bytes(threads) for c in cpu.caches}
    return tuple(
        MemoryLevel(
            level, capacities.get(level), max(r for (name, _), r in rates.items() if name == level)
        )
        for level in (*capacities, _DRAM)
    )


def numpy_memory(cpu: Cpu, threads: int) -> tuple[MemoryLevel, ...]:
    """Bandwidth without any kernel of ours: NumPy adding one array to another in place.

    Two reads and one write are counted. What NumPy reaches, memory can do; it may do more.
    """
    jobs = {
        (name, "NumPy"): Job(NumpyAddition(buffers[0].size), buffers, blocks=1)
        for name, buffers in level_buffers(cpu, threads, _NUMPY_UNIT_BYTES).items()
    }
    return memory_levels(cpu, threads, best_rates(jobs, None))


class NumpyAddition:
    """Adds the second half of ``data`` to its first half in each iteration."""

    def __init__(self, data_bytes: int) -> None:
        self.kernel = Kernel("NumPy", "", per_iteration=3 * (data_bytes // 2))

    def __call__(self, data: NDArray[Any], iterations: int, out: NDArray[Any]) -> None:
        del out  # the sums stay in ``data``
        first, second = data.view(np.uint32).reshape(2, -1)
        if iterations < _FEW_ADDITIONS:
            for _ in range(iterations):
                np.add(first, second, out=first)
        else:
            # The same, but for the first of them, which is a copy.
            np.add.reduce(np.broadcast_to(second, (iterations, second.size)), out=first)


def _available_bytes() -> int:
    """Memory that can be had without swapping; a modest guess where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvail"))
    except (OSError, StopIteration, ValueError, IndexError):
        return 1 << 30
