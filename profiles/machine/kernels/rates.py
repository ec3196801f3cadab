"""How fast kernels run, repeated in turns.

Rates are the best of several repeats, because everything that disturbs only ever slows down.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from mnv4_deploy.profiles.machine.kernels.loaded import RunnableKernel

_ALIGNMENT = 64
_OUT_BYTES = 4096
# Short samples and many: some of them fall between other programs' turns.
_SAMPLE_S, _SAMPLE_S_TOGETHER = 0.002, 0.003
_TRIES = 3
_ROUNDS, _SAMPLES = 24, 2
_QUIET, _QUIET_ROUNDS, _MOST_ROUNDS = 0.96, 8, 120
# Some are never quiet: a board's cores may be narrower than the canary's limit assumes.
_MOST_S = 20.0

T = TypeVar("T", bound=Hashable)


def aligned(size_bytes: int) -> NDArray[np.uint8]:
    """``size_bytes`` bytes of touched, non-zero memory at a cache line's border."""
    raw = np.empty(size_bytes + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    block = raw[start : start + size_bytes]
    # A page never written may share one page of zeros with all others, and stay in cache.
    block[:] = 1
    return block


def floats() -> NDArray[np.uint8]:
    """Small floats: sums of their products must not overflow into values that are slow."""
    block = aligned(_OUT_BYTES)
    block.view(np.float32)[:] = 1e-3
    return block


class Job:
    """A kernel on a buffer for each thread, repeated for a few milliseconds at a time.

    ``blocks`` are those of each buffer, where the kernel reads them: it does all at least once.
    """

    def __init__(
        self, kernel: RunnableKernel, buffers: Sequence[NDArray[Any]], *, blocks: int = 0
    ) -> None:
        self._kernel, self._buffers, self._blocks = kernel, buffers, blocks
        self._outs = [np.zeros(_OUT_BYTES // 8, np.int64) for _ in buffers]
        self._iterations = blocks or 1000
        # Threads do not start together to the microsecond, so several need longer samples.
        sample_s = _SAMPLE_S if len(buffers) == 1 else _SAMPLE_S_TOGETHER
        # A disturbed run would look long enough with a few iterations, whose overhead is all that
        # was measured then: the fastest of some decides.
        while (took := min(_seconds(lambda: self._work(0)) for _ in range(_TRIES))) < sample_s:
            more = max(1.5, min(100.0, sample_s / took))
            self._iterations = math.ceil(self._iterations * more)

    def _work(self, thread: int) -> None:
        self._outs[thread][0] = self._blocks
        self._kernel(self._buffers[thread], self._iterations, self._outs[thread])

    def sample_per_s(self) -> float:
        """Units (see ``Kernel.per_iteration``) a second over all threads, measured once."""
        took = _together(self._work, len(self._buffers))
        return self._kernel.kernel.per_iteration * self._iterations * len(self._buffers) / took


class Sampled(Protocol):
    """What has a rate: a :class:`Job`."""

    def sample_per_s(self) -> float: ...


@dataclass(frozen=True)
class Canary:
    """Work whose limit is known: as long as it falls short, something else is running."""

    job: Sampled
    limit_per_s: float

    def is_quiet(self) -> bool:
        return self.job.sample_per_s() >= _QUIET * self.limit_per_s


def best_rates(jobs: Mapping[T, Sampled], canary: Canary | None) -> dict[T, float]:
    """The best sample of each job. They take turns, for a disturbance can last a while.

    Rounds go on until enough of them were quiet from end to end, or time is up.
    """
    best = dict.fromkeys(jobs, 0.0)
    quiet, start = 0, time.perf_counter()
    for index in range(_MOST_ROUNDS):
        late = time.perf_counter() - start > _MOST_S
        if index >= _ROUNDS and (canary is None or quiet >= _QUIET_ROUNDS or late):
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
