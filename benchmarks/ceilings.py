"""Do two independent methods agree on this machine's ceilings?

Prints float32 and int8 peaks of the runtimes beside those of instruction loops, NumPy's sgemm
and sums of large arrays, for one and all cores. Run it on a quiet machine:

    python benchmarks/ceilings.py [--rounds N]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from mnv4_deploy.profiles.machine.ceilings import measure_machine
from mnv4_deploy.profiles.machine.cpu import limits_macs_per_s, read_cpu
from mnv4_deploy.profiles.machine.independent import measure_peaks
from mnv4_deploy.profiles.machine.kernels import tile_ir
from mnv4_deploy.profiles.records.machine import Ceilings

_SGEMM_SIZES = (384, 512, 768, 1024)
_ARRAY_BYTES = 256 << 20
_THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class NumpyRates:
    """NumPy: sgemm in MAC/s on one core or all; a large array added to another, in bytes/s."""

    sgemm_macs_per_s: float
    add_bytes_per_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=2, help="measurements of each, best kept")
    parser.add_argument("--numpy", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.numpy:
        rates = numpy_rates()
        print(rates.sgemm_macs_per_s, rates.add_bytes_per_s)
        return
    cpu = read_cpu()
    print(f"{cpu.model}, {cpu.cores} cores, {' '.join(cpu.isa)}")
    for threads in sorted({1, cpu.cores}):
        began = time.perf_counter()
        found = [measure_machine([threads]).ceilings[0] for _ in range(options.rounds)]
        took_s = (time.perf_counter() - began) / options.rounds
        print(f"\n{threads} thread(s); one measurement of all ceilings takes {took_s:.1f} s")
        report(found, numpy_in_child(threads), threads)


def report(found: list[Ceilings], numpy: NumpyRates, threads: int) -> None:
    """One line for each ceiling: the rate and its share of what it is compared with."""
    cpu = read_cpu()
    clock = max(c.clock_ghz or 0.0 for c in found)
    limits = limits_macs_per_s(clock, cpu.isa) or {}
    print(f"clock {clock:.3f} GHz")

    def best(source: str, compute: str) -> float:
        return max(c.peak(source, compute) or 0.0 for c in found)

    fma = best("independent", "float32")
    line("float32", "multiply-add loop", fma, "clock x ISA", limits.get("float32", 0) * threads)
    for source in ("xnnpack", "onnxruntime"):
        line("float32", source, best(source, "float32"), "multiply-add loop", fma)
    line("float32", "NumPy sgemm", numpy.sgemm_macs_per_s, "multiply-add loop", fma)
    sequences: dict[str, float] = {}
    exact: frozenset[str] = frozenset()
    for _ in found:
        integers = measure_peaks(cpu, threads)
        exact = integers.exact
        for name, rate in integers.macs_per_s.items():
            sequences[name] = max(sequences.get(name, 0.0), rate)
    limit = limits.get("int8", 0) * threads
    for name, rate in sequences.items():
        line("8-bit", name, rate, "clock x ISA", limit)
    for source in ("xnnpack", "onnxruntime"):
        # XNNPACK is exact on every processor; MLAS may saturate, and has other tiles.
        possible = {
            name: rate
            for name, rate in sequences.items()
            if (name in exact if source == "xnnpack" else name != tile_ir.NAME)
        }
        for compute in ("int8", "uint8", "int8 dynamic"):
            rate = best(source, compute)
            own_tile = source == "xnnpack" and compute == "int8" and tile_ir.NAME in possible
            name, bound = (
                (tile_ir.NAME, possible[tile_ir.NAME])
                if own_tile
                else nearest_above(rate, possible)
            )
            line(compute, source, rate, name, bound)
    for level in found[0].memory:
        rate = max(m.bytes_per_s for c in found for m in c.memory if m.name == level.name)
        line(level.name, "loop, adding in place", rate, "", 0.0, unit="GB/s")
        if level.capacity_bytes is None and threads == 1:
            line(level.name, "NumPy add in place", numpy.add_bytes_per_s, "the loop", rate, "GB/s")
    for source in ("xnnpack", "onnxruntime"):
        cost = min(c.op_overhead_us[source] for c in found)
        print(f"{'operator':<14}{source:<34}{cost:9.3f} us")


def nearest_above(rate: float, sequences: dict[str, float]) -> tuple[str, float]:
    """The slowest sequence that is not slower than ``rate``, within 2 % of noise."""
    if not sequences:
        return "", 0.0
    above = {n: r for n, r in sequences.items() if r >= 0.98 * rate}
    name = (
        min(above, key=above.__getitem__) if above else max(sequences, key=sequences.__getitem__)
    )
    return name, sequences[name]


def line(
    what: str, how: str, rate: float, reference: str, against: float, unit: str = "GMAC/s"
) -> None:
    share = f"{100 * rate / against:6.1f} % of {reference}" if against else ""
    print(f"{what:<14}{how:<34}{rate / 1e9:9.1f} {unit:<7}{share}")


def numpy_in_child(threads: int) -> NumpyRates:
    """OpenBLAS reads its number of threads once, when it is loaded."""
    environment = os.environ | dict.fromkeys(_THREAD_VARIABLES, str(threads))
    command = [sys.executable, __file__, "--numpy"]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return NumpyRates(*map(float, output.stdout.split()))


def numpy_rates() -> NumpyRates:
    rng = np.random.default_rng(0)
    sgemm = 0.0
    for size in _SGEMM_SIZES:
        a, b = (rng.standard_normal((size, size), dtype=np.float32) for _ in range(2))
        out = np.empty_like(a)
        sgemm = max(sgemm, size**3 / fastest_s(partial(np.matmul, a, b, out)))
    target, array = (np.ones(_ARRAY_BYTES // 4, np.float32) for _ in range(2))
    # Both arrays are read, and one is written.
    adding = 3 * array.nbytes / fastest_s(partial(np.add, target, array, target))
    return NumpyRates(sgemm, adding)


def fastest_s(work: Callable[[], object], repeats: int = 80) -> float:
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


if __name__ == "__main__":
    main()
