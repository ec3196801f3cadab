"""Frozen records of an export: what was asked for and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.records import FileFacts

Format = Literal["onnx", "tflite"]
Io = Literal["float", "int8", "uint8"]
FORMATS: tuple[Format, ...] = ("onnx", "tflite")


@dataclass(frozen=True)
class ExportRequest:
    """What an export is asked for. Combinations that cannot be done raise UnsupportedError.

    ``size`` is ``(height, width)``, None for the weights' own. ``io`` is the type of the int8
    files' inputs and outputs, None for the target's default. ``calibration`` and
    ``evaluation`` are ``bundled`` or a folder; ``calibration`` may be ``random``.
    """

    model: str
    out: Path
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
        if self.target == "integer-only":
            if not self.int8 or "tflite" not in self.formats:
                raise UnsupportedError(
                    "--target integer-only is about the int8 TFLite file: add --int8 and keep "
                    "tflite among the formats."
                )
            if self.io == "float":
                raise UnsupportedError(
                    "--target integer-only has no float operator, so --io must be int8 or uint8."
                )

    @property
    def precisions(self) -> tuple[str, ...]:
        """What is written of each format, fp32 first and int8 last."""
        return (
            "fp32",
            *(("fp16",) if self.fp16 else ()),
            *(("int8",) if self.int8 else ()),
        )

    def file_name(self, format_: Format, precision: str) -> str:
        return f"{self.model}-{precision}.{format_}"

    @property
    def effective_io(self) -> Io:
        """The type of the int8 files' inputs and outputs."""
        return self.io or ("int8" if self.target == "integer-only" else "float")


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

    Top-1 figures are percentages, None where the images have no labels. ``sqnr_db`` is over all
    logits together, ``median_sqnr_db`` the median over images (one image with large logits
    rules the first, not the second). ``cosine`` is the mean over images.
    """

    subject: str
    images: int
    top1: float | None
    top1_fp32: float | None
    agreement: float
    sqnr_db: float
    median_sqnr_db: float
    cosine: float


@dataclass(frozen=True)
class TruthCheck:
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
class ExportResult:
    """All of what an export did; ``manifest`` is the content of manifest.json."""

    request: ExportRequest
    artifacts: tuple[Artifact, ...]
    rewrites: tuple[RewriteSummary, ...]
    deviations: tuple[Deviation, ...]
    drifts: tuple[Drift, ...]
    truths: tuple[TruthCheck, ...]
    seconds_by_stage: dict[str, float]
    manifest: dict[str, Any]
