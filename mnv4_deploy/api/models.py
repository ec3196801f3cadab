"""Models: which there are, and their export."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from mnv4_deploy.api.arguments import AnyPath, fitted, record

if TYPE_CHECKING:
    from mnv4_deploy.exporters.records import ExportResult
    from mnv4_deploy.models.source import ModelSource
    from mnv4_deploy.reports.plots.ridge_plot import RidgeSweep
    from mnv4_deploy.support.catalogue import CatalogueEntry
    from mnv4_deploy.tasks.task import Task


def export(
    model: AnyPath | ModelSource,
    out: AnyPath | None = None,
    *,
    task: Task | None = None,
    weights: AnyPath = "bundled",
    formats: str | Sequence[str] = ("onnx", "tflite"),
    int8: bool = False,
    fp16: bool = False,
    size: int | str | tuple[int, int] | None = None,
    num_classes: int | None = None,
    batch: int = 1,
    dynamic_batch: bool = False,
    target: str = "xnnpack",
    io: Literal["float", "int8", "uint8"] | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    crop_pct: float | None = None,
    interpolation: Literal["bilinear", "bicubic"] | None = None,
    bake_preprocess: bool = False,
    calibration: AnyPath = "bundled",
    calibration_images: int = 200,
    calibration_method: str = "average",
    evaluation: AnyPath = "bundled",
    labels: AnyPath | None = None,
    evaluation_images: int = 1000,
    max_drop: float | None = None,
    confident: bool = False,
    overwrite: bool = False,
) -> ExportResult:
    """Export ``model`` to ``out``, by default out/MODEL: the command ``export``.

    ``task`` None is classification. ``formats`` is "onnx", "tflite", "onnx,tflite" or several;
    ``size`` one side, (height, width) or "192x320". ``exporters.records.ExportRequest`` says
    what the others mean.

    Raises InputError, VerificationError or ToolchainError; then nothing appears in ``out``.
    """
    from mnv4_deploy.exporters.records import ExportRequest, default_out
    from mnv4_deploy.pipelines import export as pipeline
    from mnv4_deploy.tasks.classification.task import CLASSIFICATION

    if isinstance(formats, str):
        formats = tuple(part.strip() for part in formats.split(","))
    request = record(
        ExportRequest,
        model=model,
        out=default_out(model) if out is None else out,
        task=CLASSIFICATION if task is None else task,
        weights=weights,
        formats=formats,
        int8=int8,
        fp16=fp16,
        size=_size(size),
        num_classes=num_classes,
        batch=batch,
        dynamic_batch=dynamic_batch,
        target=target,
        io=io,
        mean=mean,
        std=std,
        crop_pct=crop_pct,
        interpolation=interpolation,
        bake_preprocess=bake_preprocess,
        calibration=calibration,
        calibration_images=calibration_images,
        calibration_method=calibration_method,
        evaluation=evaluation,
        labels=labels,
        evaluation_images=evaluation_images,
        max_drop=max_drop,
        confident=confident,
        overwrite=overwrite,
    )
    return pipeline.export(request)


def _size(size: Any) -> Any:
    """One side is both, and text as the command line has it."""
    from mnv4_deploy.models.zoo import parse_size

    given = fitted("size", size, int | str | tuple[int, int] | None)
    return parse_size(str(given)) if isinstance(given, int | str) else given


def list_models() -> tuple[CatalogueEntry, ...]:
    """The models there are, with exact parameter and MAC counts: the command ``models``."""
    from mnv4_deploy.support import catalogue

    return catalogue.list_models()


def find_model(model: str) -> CatalogueEntry:
    """One of :func:`list_models`: the command ``models MODEL``.

    Raises UnknownModelError, whose message names the nearest one.
    """
    from mnv4_deploy.support import catalogue

    return catalogue.find_model(fitted("model", model, str))


def sweep_roofline(
    models: str | Sequence[str] | None = None,
    *,
    max_ridge_point: float = 500.0,
    out: AnyPath | None = None,
    overwrite: bool = False,
) -> RidgeSweep:
    """Predicted latencies of ``models`` on machines of every balance: the command ``roofline``.

    ``models`` None are the paper's five; ``max_ridge_point`` is in MACs/byte. With ``out`` the
    plot and the numbers are written there. Raises InputError; then nothing appears in ``out``.
    """
    from pathlib import Path

    from mnv4_deploy.pipelines import ridge_sweep
    from mnv4_deploy.progress import Progress

    if isinstance(models, str):
        models = [name for part in models.split(",") if (name := part.strip())]
    return ridge_sweep.sweep(
        fitted("models", models, tuple[str, ...] | None),
        fitted("max_ridge_point", max_ridge_point, float),
        Progress(show=False),
        out=fitted("out", out, Path | None),
        overwrite=fitted("overwrite", overwrite, bool),
    )
