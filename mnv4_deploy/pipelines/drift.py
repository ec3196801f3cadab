"""The stages of ``drift``: subjects, images, both at the output, both layer by layer, files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mnv4_deploy.drift.records import DeviceAgreement, DriftRequest, DriftResult, ShardJob
from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.images.records import Dataset, DatasetImage, Pixels, SkippedImage
from mnv4_deploy.layers.records import LayersDrift
from mnv4_deploy.progress import Progress

if TYPE_CHECKING:
    from mnv4_deploy.device.device import Device
    from mnv4_deploy.drift.device_executor import DeviceExecutor
    from mnv4_deploy.drift.run import ImageRun
    from mnv4_deploy.models.records import Preprocessing
    from mnv4_deploy.tasks.task import Summary, Task

MIN_LAYER_IMAGES = 4
MAX_LAYER_IMAGES = 1024
# Sound int8 files of our reference networks agree to 20 dB and more in the median image.
SOUND_DB = 20.0
_STANDARD_ERRORS = 2.0


@dataclass(frozen=True)
class _Bench:
    """A device with the files of a job on it."""

    device: Device
    place: DeviceExecutor


def drift(request: DriftRequest, progress: Progress) -> DriftResult:
    """Compare two networks on images; with ``request.out`` also write every output there.

    Raises InputError for subjects, images, options, a cluster or a device that cannot be used,
    ToolchainError for a runtime that fails and a device that is lost; then nothing is written. A
    limit that is exceeded is no error: see ``DriftResult.failed``.
    """
    from mnv4_deploy.drift import limits
    from mnv4_deploy.drift.model_ref import check_pair, open_model_ref
    from mnv4_deploy.drift.run import open_run
    from mnv4_deploy.drift.store import store_folder
    from mnv4_deploy.images.dataset import make_dataset

    _check(request)
    task = request.task
    limits.parse(request.fail_if, task)
    with progress.stage("Look at both models"):
        reference, candidate = (
            open_model_ref(
                what, task=task, weights=request.weights, overrides=request.preprocessing
            )
            for what in (request.reference, request.candidate)
        )
        check_pair(
            reference, candidate, task=task, allow_preprocessing=request.allow_preprocessing
        )
        if request.device and {reference.kind, candidate.kind} == {"torch"}:
            raise UnsupportedError(
                f"{reference.name} and {candidate.name} are PyTorch models, which run here: leave "
                "--device out, or give a .tflite or .onnx file."
            )
    with progress.stage("List the images"):
        source = "model" if reference.labels or candidate.labels else ""
        classes = task.name_classes(reference, source, request.data, request.labels_file)
        if classes.source != source:
            reference = replace(reference, labels=classes.labels)
            candidate = replace(candidate, labels=classes.labels)
        found = task.find_images(request.data, "evaluation", reference, classes.labels_file)
        dataset = make_dataset(found, limit=request.images)
    limits.check_decidable(
        request.fail_if,
        task,
        reference,
        labelled=dataset.labelled,
        layers=request.layer_images > 0,
    )
    job = ShardJob(task, reference, candidate)
    # Finished images stay on disk until the report is written: a run killed here loses none.
    with (
        _bench(request, job, progress) as bench,
        open_run(
            job,
            dataset,
            workers=request.workers,
            cluster=request.cluster,
            place=bench.place if bench else None,
            store=store_folder(request.out),
            progress=progress,
        ) as run,
    ):
        result = _result(request, job, dataset, run, bench, progress)
        if request.out is not None:
            from mnv4_deploy.reports.drift.write import write_outputs

            with progress.stage("Write the report"):
                write_outputs(result, request.out, overwrite=request.overwrite)
    return result


@contextlib.contextmanager
def _bench(request: DriftRequest, job: ShardJob, progress: Progress) -> Iterator[_Bench | None]:
    if not request.device:
        yield None
        return
    from mnv4_deploy.device.open import open_device
    from mnv4_deploy.drift.device_executor import device_executor

    with contextlib.ExitStack() as stack:
        with progress.stage(f"Load the models on {request.device}"):
            device = stack.enter_context(
                open_device(request.device, request.device_options, progress.note)
            )
            place = stack.enter_context(device_executor(job, device))
        yield _Bench(device, place)


def _result(
    request: DriftRequest,
    job: ShardJob,
    dataset: Dataset,
    run: ImageRun,
    bench: _Bench | None,
    progress: Progress,
) -> DriftResult:
    from mnv4_deploy.drift import limits

    task, labels = job.task, job.reference.labels or job.candidate.labels
    output = task.summarise(run.rows, dataset.images, labels)
    layers = None
    parity: tuple[DeviceAgreement, ...] = ()
    notes: tuple[str, ...] = ()
    if request.layer_images:
        images = _spread(dataset, run.skipped, request.layer_images)
        pixels = _pixels(job.task, images, job.candidate.preprocessing)
        if bench is not None:
            from mnv4_deploy.pipelines.drift_parity import compare_files

            with progress.stage(f"Compare {request.device} with this machine"):
                parity, notes = compare_files(job, bench.device, pixels)
                bench.device.close()  # the rest, which may take minutes, is done here
        layers = _layers(job, images, pixels, progress, matters=_matters(task, output))
    values = limits.metrics(task, output, layers, len(run.skipped))
    return DriftResult(
        task=task,
        reference=job.reference,
        candidate=job.candidate,
        data=dataset.name,
        output=output,
        layers=layers,
        skipped=run.skipped,
        limits=limits.check(request.fail_if, task, values, task.doubts(output)),
        seconds=run.seconds,
        images_per_second=run.images_per_second,
        resumed_images=run.resumed_images,
        workers=run.workers,
        notes=notes,
        device=bench.device.facts if bench else None,
        device_runtimes=bench.place.runtimes if bench else (),
        parity=parity,
    )


def _check(request: DriftRequest) -> None:
    from mnv4_deploy.outputs import check_free

    if request.layer_images and not (MIN_LAYER_IMAGES <= request.layer_images <= MAX_LAYER_IMAGES):
        raise UnsupportedError(
            f"--layer-images {request.layer_images} makes no sense: give {MIN_LAYER_IMAGES} to "
            f"{MAX_LAYER_IMAGES}, or 0 to leave the layers out."
        )
    if request.workers is not None and not 1 <= request.workers <= 1024:
        raise UnsupportedError(f"--workers {request.workers} makes no sense: give 1 or more.")
    if request.cluster and request.workers is not None:
        raise UnsupportedError("--workers is for this machine: leave it out with --cluster.")
    if request.device:
        from mnv4_deploy.device.address import parse_address

        parse_address(request.device)
    if request.device and (request.cluster or request.workers is not None):
        other = "--cluster" if request.cluster else "--workers"
        raise UnsupportedError(
            f"--device and {other} are two places to run: leave one of them out, as a device "
            "takes one image after the other."
        )
    if request.out is not None:
        from mnv4_deploy.reports.drift.write import MANIFEST, NAMES

        check_free(request.out, overwrite=request.overwrite, names=NAMES, manifest=MANIFEST)


def _matters(task: Task, output: Summary) -> bool:
    """Whether the drift is more than int8 always costs: then it has causes worth mending.

    The task's budget metric got worse by more than chance, or the outputs agree badly.
    """
    figures = task.figures(output)
    drop, sqnr_db = figures[task.budget], figures["median_sqnr_db"]
    significant = drop is not None and drop > _STANDARD_ERRORS * task.chance(output)
    return significant or sqnr_db is None or sqnr_db < SOUND_DB


def _layers(
    job: ShardJob,
    images: Sequence[DatasetImage],
    pixels: Pixels,
    progress: Progress,
    *,
    matters: bool,
) -> LayersDrift:
    """``pixels`` are ``images`` as the candidate sees them."""
    from mnv4_deploy.drift.causes.diagnose import diagnose
    from mnv4_deploy.drift.causes.input_faults import find_input_fault
    from mnv4_deploy.drift.causes.output_faults import find_output_fault
    from mnv4_deploy.drift.causes.preparation_fault import find_preparation_fault, sees_otherwise
    from mnv4_deploy.layers.compare import compare_layers
    from mnv4_deploy.profiles.isolated import content_of

    reference, candidate = job.reference, job.candidate
    files = [subject.path for subject in (reference, candidate) if subject.path]
    # Files that run may still be odd inside, and here they are taken apart.
    with content_of(" or ".join(dict.fromkeys(files))) if files else contextlib.nullcontext():
        with progress.stage("Compare layer by layer"):
            layers = compare_layers(reference, candidate, pixels, effects=True)
        with progress.stage("Look for causes"):
            whole = None
            if sees_otherwise(reference.preprocessing, candidate.preprocessing):
                theirs = _pixels(job.task, images, reference.preprocessing)
                found = find_preparation_fault(reference, candidate, theirs, pixels)
                if found is not None:
                    whole, matters = found.cause, found.after_db < SOUND_DB
            if whole is None:
                whole = find_output_fault(reference, candidate, pixels)
            if whole is None:
                whole = find_input_fault(reference, candidate, pixels)
            return diagnose(layers, whole, matters=matters)


def _spread(
    dataset: Dataset, skipped: tuple[SkippedImage, ...], count: int
) -> tuple[DatasetImage, ...]:
    """``count`` images spread evenly over the data set."""
    import numpy as np

    bad = {image.index for image in skipped}
    usable = [image for i, image in enumerate(dataset.images) if i not in bad]
    places = np.linspace(0, len(usable) - 1, min(count, len(usable))).round().astype(int)
    return tuple(usable[i] for i in places)


def _pixels(task: Task, images: Sequence[DatasetImage], spec: Preprocessing) -> Pixels:
    """``[N, H, W, 3]``: what a network of this preprocessing sees of ``images``."""
    import numpy as np

    from mnv4_deploy.images.sets import ImageRef

    return np.stack([ImageRef(Path(image.path)).pixels(spec, task.prepare) for image in images])
