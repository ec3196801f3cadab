"""Do the intervals of `mnv4-deploy compare` hold the truth? Comparisons whose answer is known.

    python benchmarks/null_compare.py m.tflite --runs 100
    python benchmarks/null_compare.py m.tflite --runs 20 --busy 14
    python benchmarks/null_compare.py a.tflite b.tflite --truth-runs 5 --runs 20 --busy 14
    python benchmarks/null_compare.py a.tflite b.tflite --truth 0.305 --runs 20

A file against itself takes 1 times its own time. Of two files the truth is --truth, or the median
of --truth-runs comparisons of five times the time, on a machine that should have nothing else to
do. Then come --runs comparisons, while --busy processes keep the processors busy, which start and
end with them. Prints each interval and how many excluded the truth, with the 95 % interval of that
share (Wilson): 95 in 100 should hold it. Also how wide they were, how many told a difference, and
the verdicts at limits around the truth: which gates are wrong, which inconclusive.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import mnv4_deploy
from mnv4_deploy.profiles.roofline.comparison import Comparison, Ratio
from mnv4_deploy.profiles.roofline.verdict import Outcome, outcome_of, verdict_of

_TRUTH_SECONDS = 5.0  # times --max-seconds
# Ends with this process however that ends.
_BUSY = """
import sys
from mnv4_deploy.profiles.isolated import die_with
die_with(int(sys.argv[1]))
while True: pass
"""
_LIMITS = (0.9, 1.05, 1.2)  # of the truth: only the first gate should close
_WILSON_Z = 1.959964


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep as many processors busy, as far as there are any."""
    children = [
        subprocess.Popen([sys.executable, "-c", _BUSY, str(os.getpid())]) for _ in range(processes)
    ]
    try:
        yield
    finally:
        for child in children:
            child.kill()
        for child in children:
            child.wait()


@dataclass(frozen=True)
class Tally:
    """What became of comparisons whose true ratio is ``truth``."""

    truth: float
    ratios: tuple[Ratio, ...]

    @property
    def missed(self) -> int:
        return sum(not ratio.low <= self.truth <= ratio.high for ratio in self.ratios)

    def share_percent(self) -> tuple[float, float]:
        """The 95 % interval of the share that is missed (Wilson)."""
        count, z = len(self.ratios), _WILSON_Z
        share = self.missed / count
        middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
        reach = z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
        reach /= 1 + z**2 / count
        return 100 * max(0.0, middle - reach), 100 * min(1.0, middle + reach)

    def outcomes(self, limit: float) -> Counter[Outcome]:
        return Counter(outcome_of(ratio, limit) for ratio in self.ratios)


def compare(files: Sequence[Path], options: argparse.Namespace, seconds: float) -> Comparison:
    return mnv4_deploy.compare(
        files[0], files[1], threads=options.threads, max_seconds=seconds, runs=options.samples
    )


def truth_of(files: Sequence[Path], options: argparse.Namespace) -> float:
    if options.truth is not None:
        return float(options.truth)
    if files[0] == files[1]:
        return 1.0
    seconds = _TRUTH_SECONDS * options.max_seconds
    found = [compare(files, options, seconds).ratio for _ in range(options.truth_runs)]
    for ratio in found:
        print(f"truth: {ratio.value:.4f} [{ratio.low:.4f}-{ratio.high:.4f}]", flush=True)
    return median(ratio.value for ratio in found)


def report(tally: Tally) -> None:
    count = len(tally.ratios)
    low, high = tally.share_percent()
    print(
        f"{tally.missed} of {count} intervals exclude the truth, {tally.truth:.4f}"
        f" ({100 * tally.missed / count:.1f} %, {low:.1f} to {high:.1f} %)"
    )
    widths = sorted(100 * (r.high - r.low) / r.value for r in tally.ratios)
    print(f"width: median {median(widths):.1f} %, largest {widths[-1]:.1f} % of the ratio")
    print("verdicts:", dict(Counter(verdict_of(ratio) for ratio in tally.ratios)))
    for part in _LIMITS:
        limit = part * tally.truth
        right: Outcome = "failed" if part < 1 else "passed"
        found = tally.outcomes(limit)
        wrong = count - found[right] - found["inconclusive"]
        print(
            f"--fail-if-slower {limit:.3f} after one part: {found[right]} {right},"
            f" {found['inconclusive']} inconclusive, {wrong} wrong"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path, help="one file, or A and B")
    parser.add_argument("--runs", type=int, default=100, help="comparisons")
    parser.add_argument("--busy", type=int, default=0, help="processes that keep CPUs busy")
    parser.add_argument("--truth", type=float, help="the true ratio of two files")
    parser.add_argument("--truth-runs", type=int, default=5, help="comparisons to find it")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-seconds", type=float, default=20.0)
    parser.add_argument("--samples", type=int, default=2000, help="--runs of the command")
    options = parser.parse_args()
    if len(options.files) > 2:
        parser.error("give one file, or two")
    files = [options.files[0], options.files[-1]]
    truth = truth_of(files, options)
    ratios = []
    with busy(options.busy):
        for index in range(options.runs):
            result = compare(files, options, options.max_seconds)
            ratio = result.ratio
            ratios.append(ratio)
            miss = "" if ratio.low <= truth <= ratio.high else "  excludes the truth"
            print(
                f"{index + 1:4} {ratio.value:.4f} [{ratio.low:.4f}-{ratio.high:.4f}]"
                f"  load {result.a.measurement.conditions.other_load_percent or 0:.0f} %{miss}",
                flush=True,
            )
    report(Tally(truth, tuple(ratios)))


if __name__ == "__main__":
    main()
