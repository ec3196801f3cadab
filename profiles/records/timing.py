"""Times of operators and runs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from statistics import median
from typing import Literal

Backend = Literal["xnnpack", "builtin", "onnxruntime", "runtime"]


@dataclass(frozen=True)
class OpTiming:
    """One operator of the graph that really ran, with a sample for each run.

    ``backend``: "xnnpack" an XNNPACK operator inside a delegated partition, "builtin" a TFLite
    operator that XNNPACK did not take, "onnxruntime" a node of onnxruntime's optimised graph,
    "runtime" work around the operators (buffer registration, synchronisation, the call itself).
    ``tag`` is the runtime's own name for the kernel or operator. ``op_index`` is the operator's
    index in the file for "builtin", None elsewhere: XNNPACK fuses, splits and drops operators.
    ``runs``: how often it runs in one inference, in the body of a loop; a sample is the sum.
    """

    tag: str
    backend: Backend
    samples_us: tuple[float, ...]
    name: str = ""
    partition: int | None = None
    op_index: int | None = None
    runs: int = 1

    @property
    def median_us(self) -> float:
        return median(self.samples_us)


@dataclass(frozen=True)
class OpProfile:
    """Where the time of one model goes: its operators, with every sample of every run."""

    path: str
    runtime: str
    threads: int
    ops: tuple[OpTiming, ...]

    @property
    def partitions(self) -> int:
        """Delegated partitions that ran (0 where nothing is delegated)."""
        return len({op.partition for op in self.ops if op.partition is not None})

    @property
    def operators_us(self) -> float:
        """Sum of the operators' medians, without the work around them."""
        return sum(op.median_us for op in self.ops if op.backend != "runtime")

    @property
    def by_tag_us(self) -> dict[str, float]:
        """Summed medians by tag, the most expensive first."""
        totals: defaultdict[str, float] = defaultdict(float)
        for op in self.ops:
            totals[op.tag] += op.median_us
        return dict(sorted(totals.items(), key=lambda item: -item[1]))


@dataclass(frozen=True)
class WallTimes:
    """End-to-end times of one file from a round-robin comparison, grouped by round."""

    path: str
    threads: int
    rounds_us: tuple[tuple[float, ...], ...]

    @property
    def median_us(self) -> float:
        return median(sample for samples in self.rounds_us for sample in samples)

    def ratio_to(self, other: WallTimes) -> float:
        """Median over the rounds of this file's median divided by the other's.

        Paired by round, so that a machine that slows down slows both.
        """
        pairs = zip(self.rounds_us, other.rounds_us, strict=True)
        return median(median(mine) / median(theirs) for mine, theirs in pairs)
