"""The wall time of a call, and inputs to feed a model with."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mnv4_deploy.errors import UnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NS_PER_US = 1000
# Windows counts CPU time in ticks of 16 ms.
CPU_TIME_IS_FINE = time.get_clock_info("process_time").resolution <= 1e-6
# A gigabyte of float32, which takes seconds to make up; damaged shapes ask for any number.
_MAX_ELEMENTS = 1 << 28


def time_run_us(run: Callable[[], object]) -> float:
    """Wall time of one call in microseconds."""
    start = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - start) / _NS_PER_US


def time_run_and_cpu_us(run: Callable[[], object]) -> tuple[float, float]:
    """Wall time of one call and the CPU time that this process got meanwhile, in microseconds."""
    cpu_ns = time.process_time_ns()
    wall_us = time_run_us(run)
    return wall_us, (time.process_time_ns() - cpu_ns) / _NS_PER_US


def fastest_runs(times_us: Sequence[float]) -> list[int]:
    """Which runs are the fastest tenth, at least one, fastest first.

    Whole runs that next to nothing disturbed: what adds up in a run adds up in them.
    """
    order = sorted(range(len(times_us)), key=times_us.__getitem__)
    return order[: max(1, len(times_us) // 10)]


def example_input(shape: Sequence[int], dtype: str, seed: int = 0) -> NDArray[Any]:
    """A reproducible input: standard normal floats, full-range 8- and 16-bit integers.

    Wider integers are zero: they are usually indices, and any other value may be out of range.
    Raises UnsupportedError for a shape that is too large.
    """
    import numpy as np

    if math.prod(shape) > _MAX_ELEMENTS:
        raise UnsupportedError(
            f"An input of shape {list(shape)} has more than {_MAX_ELEMENTS:,} elements, which are"
            " too many to make up: give a smaller --shape, or a model of smaller inputs."
        )

    generator = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return generator.standard_normal(tuple(shape)).astype(kind)
    if kind.kind in "iu" and kind.itemsize <= 2:
        info = np.iinfo(kind)
        return generator.integers(info.min, info.max, tuple(shape), dtype=kind, endpoint=True)
    return np.zeros(tuple(shape), kind)
