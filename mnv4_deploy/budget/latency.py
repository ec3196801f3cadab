"""What a file costs in time: files take turns in this process, so that noise meets all alike."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from mnv4_deploy.profiles.measure.rounds import take_turns
from mnv4_deploy.profiles.records.timing import WallTimes
from mnv4_deploy.profiles.runtimes.runners import open_runner

_RUNS = 60
_WARMUP = 3
_SECONDS_PER_FILE = 6.0


@dataclass(frozen=True)
class Latencies:
    """``median_us`` of the first file, and of every file the ``ratios`` over the first."""

    median_us: float
    ratios: tuple[float, ...]


def latencies(paths: Sequence[Path]) -> Latencies:
    """Single-threaded end-to-end times of ``paths``, medians over rounds, paired by round."""
    with ExitStack() as stack:
        runners = [stack.enter_context(closing(open_runner(path))) for path in paths]
        samples = take_turns(
            runners,
            runs=_RUNS,
            warmup=_WARMUP,
            max_seconds=_SECONDS_PER_FILE * len(paths),
            profile=False,
        )
    times = [
        WallTimes(str(path), 1, tuple(sample.plain))
        for path, sample in zip(paths, samples, strict=True)
    ]
    return Latencies(times[0].median_us, tuple(each.ratio_to(times[0]) for each in times))
