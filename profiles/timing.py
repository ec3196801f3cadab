"""Wall-clock timing of several models in one process, and the inputs to feed them.

Absolute times drift with the machine; ratios of models that take turns do not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NS_PER_US = 1000


def time_run_us(run: Callable[[], object]) -> float:
    """Wall time of one call in microseconds."""
    start = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - start) / _NS_PER_US


def round_robin(
    runs: Sequence[Callable[[], object]], *, rounds: int, burst: int, warmup: int
) -> list[tuple[tuple[float, ...], ...]]:
    """Times of each callable in us, ``[callable][round][sample]``.

    In every round each callable runs once unrecorded, because the others have emptied the
    caches of its weights, then ``burst`` times recorded. The order reverses from round to round
    so that no callable always follows the same neighbour.
    """
    if not runs or rounds < 1 or burst < 1 or warmup < 0:
        raise ValueError("round_robin needs something to run and at least one round and sample")
    for run in runs:
        for _ in range(warmup):
            run()
    samples: list[list[tuple[float, ...]]] = [[] for _ in runs]
    for round_index in range(rounds):
        order = range(len(runs)) if round_index % 2 == 0 else reversed(range(len(runs)))
        for i in order:
            runs[i]()
            samples[i].append(tuple(time_run_us(runs[i]) for _ in range(burst)))
    return [tuple(per_round) for per_round in samples]


def example_input(shape: Sequence[int], dtype: str, seed: int = 0) -> NDArray[Any]:
    """A reproducible input: standard normal floats, full-range 8- and 16-bit integers.

    Wider integers are zero: they are usually indices, and any other value may be out of range.
    """
    generator = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return generator.standard_normal(tuple(shape)).astype(kind)
    if kind.kind in "iu" and kind.itemsize <= 2:
        info = np.iinfo(kind)
        return generator.integers(info.min, info.max, tuple(shape), dtype=kind, endpoint=True)
    return np.zeros(tuple(shape), kind)
