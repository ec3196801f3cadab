"""Models that take turns, so that a machine that slows down slows all of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from mnv4_deploy.profiles.records.inputs import RunSettings
from mnv4_deploy.profiles.records.timing import WallTimes
from mnv4_deploy.profiles.runtimes.runners import Runner, open_runner
from mnv4_deploy.profiles.runtimes.timing import CPU_TIME_IS_FINE, time_run_and_cpu_us, time_run_us

MIN_ROUNDS = 3
_BURST = 5
# Of the time limit, for all files together: warming up is no use if nothing is left to measure.
_WARMUP_SHARE = 0.2
_US = 1e-6


@dataclass
class Samples:
    """Times of one model in us, by round: wall times, and of the plain runs CPU times where the
    system counts them finely enough."""

    plain: list[tuple[float, ...]] = field(default_factory=list)
    cpu: list[tuple[float, ...]] = field(default_factory=list)
    profiled: list[tuple[float, ...]] = field(default_factory=list)


def take_turns(
    runners: Sequence[Runner],
    *,
    runs: int,
    warmup: int,
    max_seconds: float,
    profile: bool = True,
    after_round: Callable[[], None] = lambda: None,
) -> list[Samples]:
    """Run every model ``runs`` times plain, and as often profiled where ``profile`` asks for it
    and the model's runtime has a profiler.

    In a round each model takes its turn: one run without record, because the others have emptied
    the caches of its weights, then a burst of recorded runs; the same with the profiler. Plain
    and profiled bursts so lie side by side in time, and their ratio in a round is the overhead
    of profiling. The order of the models reverses from round to round so that none always
    follows the same neighbour. Ends after ``runs`` or ``max_seconds``, but not before 3 rounds
    (fewer where ``runs`` is smaller): bursts are shorter where a model is slow.
    """
    start = time.perf_counter()
    profile = profile and any(runner.times_operators for runner in runners)
    run_s = _warm_up(runners, warmup, max_seconds, profile)
    burst = _burst(runs, run_s * (2 if profile else 1), max_seconds)
    samples = [Samples() for _ in runners]
    done = 0
    for index in range(-(-runs // burst)):
        if index >= MIN_ROUNDS and time.perf_counter() - start > max_seconds:
            break
        size = min(burst, runs - done)
        order = range(len(runners)) if index % 2 == 0 else reversed(range(len(runners)))
        for i in order:
            _turn(runners[i], samples[i], size, profile)
        done += size
        after_round()
    return samples


def time_files(
    paths: Sequence[str | Path],
    *,
    threads: int = 1,
    rounds: int = 20,
    warmup: int = 5,
) -> tuple[WallTimes, ...]:
    """End-to-end times without profiler of several files that take turns in this process."""
    runners: list[Runner] = []
    try:
        for path in paths:
            runners.append(open_runner(path, RunSettings(threads=threads)))
        samples = take_turns(
            runners,
            runs=rounds * _BURST,
            warmup=warmup,
            max_seconds=math.inf,
            profile=False,
        )
    finally:
        for runner in runners:
            runner.close()
    return tuple(
        WallTimes(str(path), threads, tuple(times.plain))
        for path, times in zip(paths, samples, strict=True)
    )


def _turn(runner: Runner, samples: Samples, size: int, profile: bool) -> None:
    runner.run()
    plain_us, cpu_us = zip(*(time_run_and_cpu_us(runner.run) for _ in range(size)), strict=True)
    samples.plain.append(plain_us)
    if CPU_TIME_IS_FINE:
        samples.cpu.append(cpu_us)
    if profile and runner.times_operators:
        runner.run_profiled(record=False)
        samples.profiled.append(tuple(runner.run_profiled(record=True) for _ in range(size)))


def _warm_up(runners: Sequence[Runner], warmup: int, max_seconds: float, profile: bool) -> float:
    """Run each model at least once; the seconds that one warm run of all of them takes."""
    limit_s = _WARMUP_SHARE * max_seconds / len(runners)
    total_s = 0.0
    for runner in runners:
        start = time.perf_counter()
        profiled = profile and runner.times_operators
        times = [time_run_us(runner.run)]
        if profiled:
            runner.run_profiled(record=False)
        while len(times) < warmup and time.perf_counter() - start < limit_s:
            times.append(time_run_us(runner.run))
            if profiled:
                runner.run_profiled(record=False)
        total_s += median(times) * _US
    return total_s


def _burst(runs: int, run_s: float, max_seconds: float) -> int:
    """Samples in a burst: few enough for ``MIN_ROUNDS`` rounds within runs and time."""
    by_time = max_seconds * (1 - _WARMUP_SHARE) / (MIN_ROUNDS * max(run_s, _US)) - 1
    return max(1, int(min(_BURST, -(-runs // MIN_ROUNDS), by_time)))
