"""Times and facts of one pair of stock and our files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

from build_pairs import Pair

from mnv4_deploy.profiles.inspect import inspect_file
from mnv4_deploy.profiles.measure.measure import profile_file
from mnv4_deploy.profiles.measure.rounds import time_files
from mnv4_deploy.records import OpProfile, OpTiming, WallTimes

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


def compare(pair: Pair, threads: int, rounds: int) -> Comparison:
    """Time all candidates and ours in one round-robin; the fastest candidate is stock."""
    paths = [*pair.stock.values(), pair.ours]
    *candidates, ours = time_files(paths, threads=threads, rounds=rounds)
    form, stock = min(zip(pair.stock, candidates, strict=True), key=lambda c: c[1].median_us)
    low, _, high = quantiles(_round_ratios(ours, stock), n=4)
    return Comparison(
        model=pair.model,
        format=pair.format,
        dtype=pair.dtype,
        threads=threads,
        ratio=ours.ratio_to(stock),
        ratio_quartiles=(low, high),
        fastest_ratio=_fastest_us(ours) / _fastest_us(stock),
        stock=_side(stock, form),
        ours=_side(ours, ""),
    )


def _round_ratios(mine: WallTimes, theirs: WallTimes) -> list[float]:
    pairs = zip(mine.rounds_us, theirs.rounds_us, strict=True)
    return [median(a) / median(b) for a, b in pairs]


def _fastest_us(times: WallTimes) -> float:
    return min(sample for samples in times.rounds_us for sample in samples)


def _side(times: WallTimes, form: str) -> Side:
    path = Path(times.path)
    facts = inspect_file(path)
    tflite = facts.format == "tflite"
    profile = profile_file(path, threads=times.threads, runs=30)
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
    if op.kind == "xnnpack":
        return op.tag.startswith("Convolution") or "GEMM" in op.tag
    return op.kind == "onnxruntime" and any(name in op.tag for name in _ORT_KERNELS)


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
