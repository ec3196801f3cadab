"""Model files: what they are, how fast they are, and what they lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mnv4_deploy.api.arguments import (
    AnyPath,
    Inputs,
    Shapes,
    device_options,
    fitted,
    given_inputs,
    record,
)
from mnv4_deploy.errors import UnsupportedError

if TYPE_CHECKING:
    from mnv4_deploy.drift.records import DriftResult
    from mnv4_deploy.models.source import ModelSource
    from mnv4_deploy.pipelines.compare_devices import DevicesComparison
    from mnv4_deploy.profiles.records.files import FileFacts
    from mnv4_deploy.profiles.records.profile import MeasureRequest, ModelProfile
    from mnv4_deploy.profiles.roofline.comparison import Comparison
    from mnv4_deploy.profiles.roofline.prediction import FilePrediction
    from mnv4_deploy.tasks.task import Task


def inspect(path: AnyPath, *, signature: str = "") -> FileFacts:
    """What a .tflite or .onnx file is: the command ``inspect``.

    Raises ModelFileError for one that cannot be read, UnsupportedError for a ``signature`` that
    it does not have.
    """
    from mnv4_deploy.profiles.inspection.inspect import inspect_file

    return inspect_file(fitted("path", path, Path), signature=fitted("signature", signature, str))


def profile(
    path: AnyPath,
    *,
    threads: int = 1,
    warmup: int = 5,
    runs: int = 400,
    max_seconds: float = 8.0,
    cpus: Sequence[int] | None = None,
    shapes: Shapes | None = None,
    inputs: Inputs | None = None,
    signature: str = "",
    machine: Literal["this", "none"] = "this",
    statistic: Literal["min", "p10", "p50", "mean"] = "min",
    device: str = "",
    setup: bool = False,
    device_python: str = "",
    device_folder: AnyPath = "",
    benchmark_model: AnyPath = "",
    out: AnyPath | None = None,
    overwrite: bool = False,
) -> ModelProfile:
    """Where the time of a model file goes: the command ``profile``.

    ``machine`` "this" measures what the machine can do where that is not known yet (seconds);
    with "none" there are no bounds and no findings. ``device`` is where the file runs, such as
    "ssh://pi" or "adb://" ("": here). With ``out`` the reports are written there.
    ``profiles.records.profile.MeasureRequest`` says what the others mean; for a published
    machine see :func:`predict`.

    Raises InputError or ToolchainError; then nothing appears in ``out``.
    """
    from mnv4_deploy.pipelines import profile as profile_pipeline
    from mnv4_deploy.progress import Progress

    if machine not in ("this", "none"):
        raise UnsupportedError(
            f"machine cannot be {machine!r}: give 'this' or 'none', or call predict() for a "
            "published machine."
        )
    measured = _measured(path, threads, warmup, runs, max_seconds, cpus, shapes, inputs, signature)
    request = record(
        profile_pipeline.ProfileRequest,
        measure=measured,
        ceilings=machine == "this",
        statistic=statistic,
        out=out,
        overwrite=overwrite,
        device=device,
        device_options=device_options(setup, device_python, device_folder, benchmark_model),
    )
    return profile_pipeline.profile(request, Progress(show=False))


def predict(
    path: AnyPath,
    machine: str,
    *,
    shapes: Shapes | None = None,
    inputs: Inputs | None = None,
    signature: str = "",
    out: AnyPath | None = None,
    overwrite: bool = False,
) -> tuple[FilePrediction, ModelProfile | None]:
    """What a model file takes on a published machine: the command ``profile --machine``.

    ``machine`` is a name of :func:`list_machines` or the start of one. There is no profile where
    the machine gives no times. Raises as :func:`profile` does.
    """
    from mnv4_deploy.pipelines import profile as profile_pipeline
    from mnv4_deploy.progress import Progress

    return profile_pipeline.predict_file(
        _measured(path, shapes=shapes, inputs=inputs, signature=signature),
        fitted("machine", machine, str),
        Progress(show=False),
        out=fitted("out", out, Path | None),
        overwrite=fitted("overwrite", overwrite, bool),
    )


def compare(
    a: AnyPath,
    b: AnyPath,
    *,
    threads: int = 1,
    warmup: int = 5,
    runs: int | None = None,
    max_seconds: float = 20.0,
    cpus: Sequence[int] | None = None,
    shapes: Shapes | None = None,
    inputs: Inputs | None = None,
    fail_if_slower: float | None = None,
    max_total_seconds: float | None = None,
    out: AnyPath | None = None,
    overwrite: bool = False,
) -> Comparison:
    """``b`` against ``a``, run in turns: the command ``compare A B``.

    ``runs`` are 2000 if not given. With ``fail_if_slower`` it measures on until that is decided,
    and ``outcome_of`` of ``mnv4_deploy.profiles.roofline.verdict`` says how. With ``out`` the
    reports are written there.

    Raises as :func:`profile` does.
    """
    from mnv4_deploy.pipelines import compare as pipeline
    from mnv4_deploy.progress import Progress

    if runs is None:
        runs = pipeline.RUNS
    first, second = (
        _measured(path, threads, warmup, runs, max_seconds, cpus, shapes, inputs)
        for path in (a, b)
    )
    request = record(
        pipeline.CompareRequest,
        a=first,
        b=second,
        fail_if_slower=fail_if_slower,
        max_total_seconds=max_total_seconds,
        out=out,
        overwrite=overwrite,
    )
    return pipeline.compare(request, Progress(show=False))


def compare_devices(
    files: AnyPath | Sequence[AnyPath],
    device: str | Sequence[str],
    *,
    threads: int = 1,
    warmup: int = 5,
    runs: int | None = None,
    max_seconds: float = 20.0,
    cpus: Sequence[int] | None = None,
    shapes: Shapes | None = None,
    inputs: Inputs | None = None,
    setup: bool = False,
    device_python: str = "",
    device_folder: AnyPath = "",
    benchmark_model: AnyPath = "",
    accuracy: Mapping[str, float] | None = None,
    out: AnyPath | None = None,
    overwrite: bool = False,
) -> DevicesComparison:
    """``files`` on every ``device``, one after the other: the command ``compare --device``.

    ``runs`` are 400 if not given. ``accuracy`` is in percent by path, where the manifest beside a
    file does not say it. With ``out`` table and plot are written there.

    Raises InputError or ToolchainError; then nothing appears in ``out``.
    """
    from mnv4_deploy.pipelines import compare_devices as pipeline
    from mnv4_deploy.pipelines.compare import RUNS_ON_DEVICE
    from mnv4_deploy.progress import Progress

    paths: tuple[Path, ...] = fitted("files", files, tuple[Path, ...])
    devices = fitted("device", device, tuple[str, ...])
    if not paths or not devices:
        raise UnsupportedError("There is nothing to compare: give files, and devices.")
    wanted = RUNS_ON_DEVICE if runs is None else runs
    request = record(
        pipeline.DevicesRequest,
        files=tuple(
            _measured(file, threads, warmup, wanted, max_seconds, cpus, shapes, inputs)
            for file in paths
        ),
        devices=devices,
        options=device_options(setup, device_python, device_folder, benchmark_model),
        accuracy_percent=accuracy or {},
        out=out,
        overwrite=overwrite,
    )
    return pipeline.compare_devices(request, Progress(show=False))


def measure_drift(
    reference: AnyPath | ModelSource,
    candidate: AnyPath | ModelSource,
    *,
    task: Task | None = None,
    data: AnyPath = "bundled",
    labels: AnyPath | None = None,
    images: int | None = None,
    weights: AnyPath = "bundled",
    size: int | str | tuple[int, int] | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    crop_pct: float | None = None,
    interpolation: Literal["bilinear", "bicubic"] | None = None,
    allow_preprocessing: bool = False,
    layer_images: int = 32,
    workers: int | None = None,
    cluster: str = "",
    device: str = "",
    setup: bool = False,
    device_python: str = "",
    device_folder: AnyPath = "",
    benchmark_model: AnyPath = "",
    fail_if: str | Sequence[str] = (),
    out: AnyPath | None = None,
    overwrite: bool = False,
) -> DriftResult:
    """What ``candidate`` lost against ``reference``: the command ``drift``.

    Either is a model file, the name of a model or where else a network comes from. ``task`` None
    is classification, ``workers`` None one process a CPU. A limit of ``fail_if`` that is exceeded
    is no error: see ``failed`` and ``limits`` of the result. With ``out`` the reports are written
    there. ``drift.records.DriftRequest`` says what the others mean.

    Raises InputError or ToolchainError; then nothing appears in ``out``.
    """
    from mnv4_deploy.drift.records import DriftRequest
    from mnv4_deploy.images.options import PreprocessingOptions
    from mnv4_deploy.pipelines import drift as drift_pipeline
    from mnv4_deploy.progress import Progress
    from mnv4_deploy.tasks.classification.task import CLASSIFICATION

    preprocessing = record(
        PreprocessingOptions, mean=mean, std=std, crop_pct=crop_pct, interpolation=interpolation
    )
    side = fitted("size", size, int | str | tuple[int, int] | None)
    sides = "x".join(map(str, side)) if isinstance(side, tuple) else str(side or "")
    request = record(
        DriftRequest,
        reference=reference,
        candidate=candidate,
        task=CLASSIFICATION if task is None else task,
        data=data,
        labels_file=labels,
        images=images,
        weights=weights,
        preprocessing={**_texts(preprocessing.given), **({"size": sides} if sides else {})},
        allow_preprocessing=allow_preprocessing,
        layer_images=layer_images,
        workers=workers,
        cluster=cluster,
        device=device,
        device_options=device_options(setup, device_python, device_folder, benchmark_model),
        fail_if=fail_if,
        out=out,
        overwrite=overwrite,
    )
    return drift_pipeline.drift(request, Progress(show=False))


def _texts(given: Mapping[str, object]) -> dict[str, str]:
    """Options of preprocessing as the command line has them."""
    return {
        key: ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        for key, value in given.items()
    }


def _measured(
    path: AnyPath,
    threads: int = 1,
    warmup: int = 5,
    runs: int = 400,
    max_seconds: float = 8.0,
    cpus: Sequence[int] | None = None,
    shapes: Shapes | None = None,
    inputs: Inputs | None = None,
    signature: str = "",
) -> MeasureRequest:
    from mnv4_deploy.profiles.records.profile import MeasureRequest

    return record(
        MeasureRequest,
        path=path,
        threads=threads,
        warmup=warmup,
        runs=runs,
        max_seconds=max_seconds,
        cpus=cpus,
        shapes=shapes or {},
        inputs=given_inputs(inputs),
        signature=signature,
    )
