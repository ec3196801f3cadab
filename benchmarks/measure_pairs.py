"""Times and facts of one pair of stock and our files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

from build_pairs import Pair

from mnv4_deploy.profiles.inspection.inspect import inspect_file
from mnv4_deploy.profiles.measure.measure import profile_file
from mnv4_deploy.profiles.measure.rounds import time_files
from mnv4_deploy.profiles.records.timing import OpProfile, OpTiming, WallTimes

# onnxruntime's node types that convolve or multiply matrices.
_ORT_KERNELS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class Side:
    """One file. ``other_share``: of the operators' time, what convolutions and matrix products
    in the runtime's fast kernels do not take; a product that fell back to a built-in TFLite
    kernel counts as other. ``partitions`` and ``outside`` (operators that XNNPACK left to the
    built-in kernels) are None for ONNX.
    """

    path: str
    form: str
    median_us: float
    fastest_us: float
    other_share: float
    by_tag_us: dict[str, float]
    histogram: dict[str, int]
    partitions: int | None
    outside: int | None


@dataclass(frozen=True)
class Comparison:
    """``ratio``: median over the rounds of our median time over stock's, with its quartiles.

    ``fastest_ratio`` compares the fastest run of each: what is left when other programs disturb
    the medians.
    """

    model: str
    format: str
    dtype: str
    threads: int
    ratio: float
    ratio_quartiles: tuple[float, float]
    fastest_ratio: float
    stock: Side
    ours: Side


@dataclass(frozen=True)
class Race:
    """Times of stock's fastest candidate and of ours, which took turns."""

    form: str
    stock: WallTimes
    ours: WallTimes

    @property
    def ratio(self) -> float:
        return self.ours.ratio_to(self.stock)

    @property
    def round_ratios(self) -> list[float]:
        """Our median over stock's, round by round."""
        pairs = zip(self.ours.rounds_us, self.stock.rounds_us, strict=True)
        return [median(mine) / median(theirs) for mine, theirs in pairs]

    @property
    def quartiles(self) -> tuple[float, float]:
        low, _, high = quantiles(self.round_ratios, n=4)
        return low, high


def race(pair: Pair, threads: int, rounds: int) -> Race:
    """Time all candidates and ours in one round-robin; the fastest candidate is stock."""
    paths = [*pair.stock.values(), pair.ours]
    *candidates, ours = time_files(paths, threads=threads, rounds=rounds)
    form, stock = min(zip(pair.stock, candidates, strict=True), key=lambda c: c[1].median_us)
    return Race(form, stock, ours)


def compare(pair: Pair, threads: int, rounds: int) -> Comparison:
    return detailed(pair, race(pair, threads, rounds))


def detailed(pair: Pair, timed: Race, runs: int = 30) -> Comparison:
    """``timed`` with what the files are and, from ``runs`` profiled runs, where the time goes."""
    return Comparison(
        model=pair.model,
        format=pair.format,
        dtype=pair.dtype,
        threads=timed.ours.threads,
        ratio=timed.ratio,
        ratio_quartiles=timed.quartiles,
        fastest_ratio=_fastest_us(timed.ours) / _fastest_us(timed.stock),
        stock=_side(timed.stock, timed.form, runs),
        ours=_side(timed.ours, "", runs),
    )


def _fastest_us(times: WallTimes) -> float:
    return min(sample for samples in times.rounds_us for sample in samples)


def _side(times: WallTimes, form: str, runs: int) -> Side:
    path = Path(times.path)
    facts = inspect_file(path)
    tflite = facts.format == "tflite"
    profile = profile_file(path, threads=times.threads, runs=runs)
    return Side(
        path=path.name,
        form=form,
        median_us=times.median_us,
        fastest_us=_fastest_us(times),
        other_share=other_share(profile),
        by_tag_us={tag: us for tag, us in profile.by_tag_us.items() if us > 0},
        histogram=facts.histogram,
        partitions=facts.partitions,
        outside=len(facts.not_delegated) if tflite else None,
    )


def other_share(profile: OpProfile) -> float:
    kernels_us = sum(op.median_us for op in profile.ops if _is_kernel(op))
    return 1 - kernels_us / profile.operators_us


def _is_kernel(op: OpTiming) -> bool:
    if op.backend == "xnnpack":
        return op.tag.startswith("Convolution") or "GEMM" in op.tag
    return op.backend == "onnxruntime" and any(name in op.tag for name in _ORT_KERNELS)


def op_histogram_changes(comparison: Comparison) -> str:
    """Every operator kind as ``KIND stock -> ours``, or its count where both have as many."""
    stock, ours = comparison.stock.histogram, comparison.ours.histogram
    kinds = list(dict.fromkeys([*stock, *ours]))
    return ", ".join(
        f"{kind} {stock.get(kind, 0)}"
        if stock.get(kind, 0) == ours.get(kind, 0)
        else f"{kind} {stock.get(kind, 0)} -> {ours.get(kind, 0)}"
        for kind in kinds
    )
