"""Frozen records of an export: what was asked for and what came of it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.exporters.recipes import CPUS, Targets
from mnv4_deploy.images.options import PreprocessingOptions
from mnv4_deploy.models.records import Interpolation
from mnv4_deploy.models.source import ModelSource, as_source
from mnv4_deploy.profiles.records.files import FileFacts
from mnv4_deploy.profiles.records.graph import Format
from mnv4_deploy.tasks.classification.task import CLASSIFICATION
from mnv4_deploy.tasks.task import Task

Io = Literal["float", "int8", "uint8"]
LayerPrecision = Literal["float", "int16x8"]
FORMATS: tuple[Format, ...] = ("onnx", "tflite")


def default_out(model: str | os.PathLike[str] | ModelSource) -> Path:
    """Where the files of ``model`` go if nobody says where."""
    return Path("out") / Path(as_source(model).name).name


@dataclass(frozen=True)
class ExportRequest:
    """What an export is asked for. Combinations that cannot be done raise UnsupportedError.

    ``model`` is a name of the zoo, ours or timm's, or where else a network comes from;
    ``weights``, ``size`` and ``num_classes`` are a named one's. ``size`` is ``(height, width)``,
    None for the weights' own. ``task`` is what the network is for. ``io`` is the type of the int8
    files' inputs and outputs, None for the target's default; ``target`` names what runs them
    (``recipes.Targets``). ``calibration`` and
    ``evaluation`` are ``bundled`` or a folder; ``calibration`` may be ``random``. ``max_drop`` is
    what int8 may cost against the float32 file of the same format, in the unit of the task's
    ``budget`` (points of top-1); ``confident``: the upper end of its 95 % interval may.
    ``mean``, ``std`` (of pixels scaled to 0..1), ``crop_pct`` and ``interpolation`` replace those
    of the weights' preprocessing. ``labels`` is a file with the names of the classes, or with the
    labels of the evaluation images.
    """

    model: str | ModelSource
    out: Path
    task: Task = CLASSIFICATION
    weights: str = "bundled"
    formats: tuple[Format, ...] = FORMATS
    size: tuple[int, int] | None = None
    num_classes: int | None = None
    batch: int = 1
    dynamic_batch: bool = False
    int8: bool = False
    fp16: bool = False
    io: Io | None = None
    bake_preprocess: bool = False
    target: str = "xnnpack"
    calibration: str = "bundled"
    calibration_images: int = 200
    calibration_method: str = "average"
    evaluation: str = "bundled"
    evaluation_images: int = 1000
    labels: str | Path | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    crop_pct: float | None = None
    interpolation: Interpolation | None = None
    max_drop: float | None = None
    confident: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not self.formats or not set(self.formats) <= set(FORMATS):
            raise UnsupportedError(
                f"There is no format {','.join(self.formats) or 'named'!r}: give onnx, tflite or "
                "onnx,tflite."
            )
        if not 1 <= self.batch <= 1024:
            raise UnsupportedError(f"A batch of {self.batch} is not possible: give 1 to 1024.")
        if self.dynamic_batch and (self.batch != 1 or "onnx" not in self.formats):
            raise UnsupportedError(
                "--dynamic-batch is for ONNX and goes without --batch: leave one of them out."
            )
        if self.io is not None and not self.int8:
            raise UnsupportedError("--io is about the int8 files: add --int8.")
        _ = self.preprocessing  # refuses what is not possible
        if self.max_drop is not None:
            self._check_max_drop(self.max_drop)
        elif self.confident:
            raise UnsupportedError("--confident is about a budget: add --max-drop.")
        if self.targets.tflite == "integer-only":
            if not self.int8 or "tflite" not in self.formats:
                raise UnsupportedError(
                    "--target integer-only is about the int8 TFLite file: add --int8 and keep "
                    "tflite among the formats."
                )
            if self.io == "float":
                raise UnsupportedError(
                    "--target integer-only has no float operator, so --io must be int8 or uint8."
                )
        cpu = self.targets.onnx
        if CPUS[cpu] != CPUS[Targets.onnx] and not (self.int8 and "onnx" in self.formats):
            raise UnsupportedError(
                f"--target {cpu} is about the int8 ONNX file: add --int8 and keep onnx among the "
                "formats."
            )

    def _check_max_drop(self, max_drop: float) -> None:
        largest, unit = self.task.largest_drop, self.task.metrics[self.task.budget].unit
        if not 0 <= max_drop <= largest:  # not NaN either
            raise UnsupportedError(
                f"A --max-drop of {max_drop:g} is not possible: give 0 to {largest:g} {unit} of "
                f"{self.task.budget}."
            )
        if not self.int8:
            raise UnsupportedError("--max-drop is about the int8 files: add --int8.")
        if self.calibration == "random":
            raise UnsupportedError(
                "--max-drop cannot be met with random calibration data: give real images as "
                "--calib."
            )

    @property
    def source(self) -> ModelSource:
        """Where the network comes from."""
        return as_source(self.model, self.weights, self.num_classes, self.size)

    @property
    def preprocessing(self) -> PreprocessingOptions:
        """What replaces the preprocessing of the weights."""
        return PreprocessingOptions(self.mean, self.std, self.crop_pct, self.interpolation)

    @property
    def targets(self) -> Targets:
        """What runs the int8 file of each format."""
        return Targets.named(self.target)

    @property
    def precisions(self) -> tuple[str, ...]:
        """What is written of each format, fp32 first and int8 last."""
        return (
            "fp32",
            *(("fp16",) if self.fp16 else ()),
            *(("int8",) if self.int8 else ()),
        )

    def file_name(self, format_: Format, precision: str) -> str:
        return f"{self.source.name}-{precision}.{format_}"

    @property
    def effective_io(self) -> Io:
        """The type of the int8 files' inputs and outputs."""
        return self.io or ("int8" if self.targets.tflite == "integer-only" else "float")


@dataclass(frozen=True)
class Deviation:
    """How far two runs of the same images are apart; ``tier`` is the named tolerance."""

    subject: str
    against: str
    images: int
    max_relative_error: float
    tier: str
    tolerance: float

    @property
    def ok(self) -> bool:
        return self.max_relative_error <= self.tolerance


@dataclass(frozen=True)
class Drift:
    """A quantized file against the float32 file of the same format, on evaluation images.

    ``figures`` are the task's metrics, None where unknown; ``labelled`` of the ``images`` have a
    known answer. ``chance`` is one standard error of the task's budget metric, ``interval`` its
    95 % interval (None where it is unknown).
    """

    subject: str
    images: int
    labelled: int
    figures: Mapping[str, float | None]
    chance: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class FileAudit:
    """What a file really is, as opposed to what it was meant to be."""

    subject: str
    facts: FileFacts
    overflowing_biases: tuple[str, ...]
    padding_outliers: tuple[str, ...]


@dataclass(frozen=True)
class Artifact:
    """A file that was written. ``precision`` is float32, float16 or int8."""

    path: Path
    format: Format
    precision: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class RewriteSummary:
    """What one rewrite did for one format: changed module paths, refusals with reasons."""

    format: Format
    name: str
    changed: tuple[str, ...]
    refused: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Int8Choice:
    """How an int8 file is made: what the search of ``--max-drop`` varies.

    ``method`` is the calibration method. The next three change weights and biases of the float
    model before it is quantized. ``float_layers`` and ``int16_layers`` are module paths of the
    PyTorch model that are not int8 (int16x8: 16-bit activations, 8-bit weights, TFLite only).
    """

    method: str = "average"
    equalize: bool = False
    correct_bias: bool = False
    optimise_rounding: bool = False
    float_layers: tuple[str, ...] = ()
    int16_layers: tuple[str, ...] = ()

    @property
    def float_model(self) -> Int8Choice:
        """Only what changes the float model: choices with the same one share its conversion."""
        return replace(
            self,
            method=Int8Choice.method,
            float_layers=(),
            int16_layers=(),
        )

    def with_layers(self, modules: Iterable[str], precision: LayerPrecision) -> Int8Choice:
        """The same with more layers that are not int8; those that are not already stay so."""
        taken = {*self.float_layers, *self.int16_layers}
        more = tuple(module for module in modules if module not in taken)
        if precision == "float":
            return replace(self, float_layers=self.float_layers + more)
        return replace(self, int16_layers=self.int16_layers + more)


@dataclass(frozen=True)
class Trial:
    """One thing the search tried for one format, measured on the held-out images.

    ``drop`` is the task's budget metric, ``interval`` its 95 % interval, ``chance`` one standard
    error of it and ``figures`` all metrics. ``latency_ratio`` and ``size_ratio`` are over the
    first trial's file. ``adopted``: later trials build on it; otherwise ``reason`` says why not.
    ``images`` have known answers.
    """

    format: Format
    name: str
    choice: Int8Choice
    drop: float
    interval: tuple[float, float]
    chance: float
    median_sqnr_db: float
    latency_us: float
    latency_ratio: float
    size_bytes: int
    size_ratio: float
    images: int
    figures: Mapping[str, float | None] = field(default_factory=dict)
    adopted: bool = False
    reason: str = ""


@dataclass(frozen=True)
class NotTried:
    """A trial for which there is no file to measure, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Sensitivity:
    """What it brings to keep a layer or a block out of int8, measured on calibration images.

    ``module`` is its path, ``modules`` are the layers in it (of a layer: itself). ``damage`` is
    the noise power that they add over the signal, each alone. ``noise_before`` and
    ``noise_after`` are those of the outputs against float32 (medians over the images), without and
    with them at ``precision``; ``added_us`` is what the file then takes longer and
    ``gain_per_ms`` the noise that goes over it, ``added_us`` taken in steps that the clock can
    tell apart. ``reason`` says why it was not considered further, "" if it was.
    """

    module: str
    modules: tuple[str, ...]
    precision: LayerPrecision
    damage: float
    noise_before: float
    noise_after: float
    added_us: float
    latency_ratio: float
    gain_per_ms: float
    reason: str = ""


@dataclass(frozen=True)
class BudgetSearch:
    """The way of one format to its budget: what was tried, in order, and what was taken.

    ``chosen`` is the adopted trial that meets the budget, or the best one if none does.
    ``max_drop`` is of ``metric``, in ``unit``; ``confident``: of the upper end of its 95 %
    interval. ``latency_limit`` is the largest latency ratio that was accepted, None where the
    first trial met the budget.
    """

    format: Format
    max_drop: float
    confident: bool
    metric: str
    unit: str
    trials: tuple[Trial, ...]
    chosen: Trial
    met: bool
    not_tried: tuple[NotTried, ...] = ()
    sensitivities: tuple[Sensitivity, ...] = ()
    latency_limit: float | None = None


@dataclass(frozen=True)
class SearchResult:
    """What came of the int8 files: the searches, if any, and the files' drift.

    ``deviations`` prove that changed float models were converted as they are.
    """

    searches: tuple[BudgetSearch, ...]
    drifts: tuple[Drift, ...]
    deviations: tuple[Deviation, ...]


@dataclass(frozen=True)
class ExportResult:
    """All of what an export did; ``manifest`` is the content of manifest.json.

    ``searches`` has one for each format, if a ``max_drop`` was given.
    """

    request: ExportRequest
    artifacts: tuple[Artifact, ...]
    rewrites: tuple[RewriteSummary, ...]
    deviations: tuple[Deviation, ...]
    drifts: tuple[Drift, ...]
    audits: tuple[FileAudit, ...]
    seconds_by_stage: dict[str, float]
    manifest: dict[str, Any]
    searches: tuple[BudgetSearch, ...] = ()

    @property
    def budget_met(self) -> bool:
        """Whether every format meets ``max_drop``; True where none was given."""
        return all(search.met for search in self.searches)
