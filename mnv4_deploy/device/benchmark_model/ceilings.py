"""Ceilings of a device on which nothing runs but benchmark_model.

XNNPACK's peaks and the cost of an operator come from the same models as on any machine
(:mod:`mnv4_deploy.profiles.machine.peaks`), memory bandwidths from additions of large arrays.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

from mnv4_deploy.device.android.shell import AndroidShell
from mnv4_deploy.device.benchmark_model.addition_model import (
    ARRAYS,
    FLOAT_BYTES,
    write_additions,
)
from mnv4_deploy.device.benchmark_model.command import Plan, profile_form
from mnv4_deploy.device.benchmark_model.run import run_plain, run_profiled
from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.profiles.files.own import scratch_folder
from mnv4_deploy.profiles.machine.products import PRODUCTS, Compute, Product
from mnv4_deploy.profiles.machine.tflite_models import write_tflite, write_tflite_chain
from mnv4_deploy.profiles.records.device import DeviceFacts
from mnv4_deploy.profiles.records.machine import Ceilings, Machine, MemoryLevel
from mnv4_deploy.profiles.records.profile import MeasureRequest

_METHOD = (
    "Best of many runs of LiteRT's benchmark_model. XNNPACK: MACs over its own time of"
    " convolutions and matrix products of several shapes. Operator overhead: run time by length"
    " of a chain of small additions. Memory: additions of float arrays, by length of a chain and"
    " less the operator overhead, over all bytes read and written; of half of each cache where"
    " the device tells their sizes, and of an array far larger for DRAM."
)
_QUICK_RUNS, _LONG_RUNS, _FINALISTS = 8, 30, 3
_CHAIN_LENGTHS, _CHAIN_RUNS = (20, 220), 200
_MEMORY_LENGTHS = (2, 10)
_MEMORY_RUNS = 30
# 16 MiB an array: no phone's last-level cache holds three of them.
_DRAM_FLOATS = 1 << 22
_MAX_SECONDS = 2.0
# Of what an addition takes, what has to be memory for the bandwidth to say anything.
_LEAST_SHARE = 0.2
_CACHE_FOLDER = "/sys/devices/system/cpu"
_CACHE_FILES = ("level", "type", "size")
_SIZE = re.compile(r"(\d+)([KM])")
_UNITS = {"K": 1 << 10, "M": 1 << 20}
_MAX_INDICES = 5
_TIMEOUT_S = 30.0


def machine(
    shell: AndroidShell,
    facts: DeviceFacts,
    threads: int,
    *,
    binary: str,
    options: frozenset[str],
    products: Sequence[Product] = PRODUCTS,
) -> Machine:
    """The device's ceilings with ``threads`` threads; a minute or two.

    The clock cannot be measured through the tool. The fixed work of ``spin_us`` is the longer
    chain of small additions, which nothing is compared with: measurements through the tool have
    no such times. Raises UnsupportedError for a build without XNNPACK or profiler,
    ToolchainError where the tool fails or the device is lost, OutputError where it is full.
    """
    if not profile_form(options):
        raise UnsupportedError(
            f"{binary} is built without operator profiling, and peaks cannot be measured without:"
            " give one of the published builds of benchmark_model."
        )
    caches = read_caches(shell)
    with scratch_folder() as folder:
        tool = _Tool(shell, binary, options, threads, folder / "ceiling.tflite")
        peaks = {c: tool.best_rate(c, products) for c in get_args(Compute)}
        spin_us, overhead_us = tool.small_additions()
        memory = tool.memory(caches, overhead_us)
    return Machine(
        cpu=facts.cpu,
        cores=read_cores(shell),
        isa=facts.isa,
        caches=caches,
        measured_on=datetime.now(UTC).isoformat(timespec="seconds"),
        method=_METHOD,
        versions=dict(facts.runtimes),
        ceilings=(
            Ceilings(
                threads=threads,
                peak_macs_per_s={"xnnpack": peaks},
                memory=memory,
                op_overhead_us={"xnnpack": overhead_us},
                spin_us=spin_us,
            ),
        ),
    )


def read_caches(shell: AndroidShell) -> dict[str, int]:
    """Bytes of each level of data cache, the largest of any core; nothing where it is hidden."""
    found: dict[str, int] = {}
    for cpu in range(read_cores(shell)):
        for index in range(_MAX_INDICES):
            folder = f"{_CACHE_FOLDER}/cpu{cpu}/cache/index{index}"
            done = shell.run(["cat", *(f"{folder}/{name}" for name in _CACHE_FILES)], _TIMEOUT_S)
            lines = done.stdout.split()
            if done.code or len(lines) != len(_CACHE_FILES):
                break
            level, kind, size = lines
            match = _SIZE.fullmatch(size)
            if match and kind in ("Data", "Unified") and level.isdigit():
                size_bytes = int(match[1]) * _UNITS[match[2]]
                found[f"L{level}"] = max(size_bytes, found.get(f"L{level}", 0))
    return dict(sorted(found.items()))


def read_cores(shell: AndroidShell) -> int:
    """CPUs of the device; 1 where it does not tell. The list is such as "0-7" or "0,2-3"."""
    done = shell.run(["cat", f"{_CACHE_FOLDER}/present"], _TIMEOUT_S)
    last = re.fullmatch(r"[\d,-]*?(\d+)", done.stdout.strip())
    return int(last[1]) + 1 if last and not done.code else 1


@dataclass(frozen=True)
class _Tool:
    """benchmark_model on files that are written here, at ``path``, and copied over."""

    shell: AndroidShell
    binary: str
    options: frozenset[str]
    threads: int
    path: Path

    def _push(self, runs: int) -> tuple[Plan, MeasureRequest]:
        graph = posixpath.join(self.shell.folder, self.path.name)
        self.shell.push(self.path, graph)
        plan = Plan(self.binary, graph, self.threads, 2, runs, _MAX_SECONDS)
        return plan, MeasureRequest(str(self.path), threads=self.threads, runs=runs)

    def _run_us(self, runs: int) -> float:
        plan, request = self._push(runs)
        return run_plain(self.shell, plan, self.options, request).inference.min

    def _longest_op_us(self, runs: int) -> float:
        plan, request = self._push(runs)
        rows = run_profiled(self.shell, plan, self.options, request).table
        times = [
            row.avg_us if row.min_us is None else row.min_us
            for row in (*rows.rows, *rows.internal)
        ]
        # The clocks tick in whole us: below one, all that is known is that it was less.
        return max(*times, 1.0)

    def best_rate(self, compute: Compute, products: Sequence[Product]) -> float:
        """MAC/s: all products briefly, then the fastest few for longer."""

        def rate(product: Product, runs: int) -> float:
            write_tflite(self.path, product, compute)
            return product.macs / self._longest_op_us(runs) * 1e6

        quick = {p: rate(p, _QUICK_RUNS) for p in products}
        finalists = sorted(products, key=lambda p: -quick[p])[:_FINALISTS]
        return max(*quick.values(), *(rate(p, _LONG_RUNS) for p in finalists))

    def small_additions(self) -> tuple[float, float]:
        """us of a long chain of additions that have nothing to do, and what one more costs."""
        short, long = self._chains_us(0, _CHAIN_LENGTHS, _CHAIN_RUNS)
        return max(long, 1.0), max(0.0, _per_op(short, long, _CHAIN_LENGTHS))

    def memory(self, caches: dict[str, int], overhead_us: float) -> tuple[MemoryLevel, ...]:
        """From L1 to DRAM, with additions of what fills half of each cache."""
        levels: list[tuple[str, int | None, int]] = [
            (name, size, max(1, size // 2 // (ARRAYS * FLOAT_BYTES)))
            for name, size in caches.items()
        ]
        found = []
        for name, capacity, floats in (*levels, ("DRAM", None, _DRAM_FLOATS)):
            short, long = self._chains_us(floats, _MEMORY_LENGTHS, _MEMORY_RUNS)
            total_us = _per_op(short, long, _MEMORY_LENGTHS)
            moving_us = total_us - overhead_us
            if moving_us > _LEAST_SHARE * total_us > 0:
                rate = floats * ARRAYS * FLOAT_BYTES / moving_us * 1e6
                found.append(MemoryLevel(name, capacity, rate))
        return tuple(found)

    def _chains_us(self, floats: int, lengths: tuple[int, int], runs: int) -> tuple[float, float]:
        """Least times of a short and a long chain of additions; 0 floats is next to nothing."""
        least = []
        for length in lengths:
            if floats:
                write_additions(self.path, length, floats)
            else:
                write_tflite_chain(self.path, length)
            least.append(self._run_us(runs))
        return least[0], least[1]


def _per_op(short_us: float, long_us: float, lengths: tuple[int, int]) -> float:
    """us of each operator that the longer chain has more."""
    return (long_us - short_us) / (lengths[1] - lengths[0])
