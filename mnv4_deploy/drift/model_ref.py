"""What is compared: a model file or a PyTorch model, with what its images must look like."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from mnv4_deploy.drift.declared import read_declared
from mnv4_deploy.errors import InputError, UnknownModelError
from mnv4_deploy.images.options import PreprocessingOptions, parse_options
from mnv4_deploy.models.assumptions import assumptions
from mnv4_deploy.models.records import Preprocessing
from mnv4_deploy.models.source import ModelSource, as_source
from mnv4_deploy.sessions.records import ModelRef
from mnv4_deploy.sessions.signature import check_types, image_size
from mnv4_deploy.tasks.classification.task import CLASSIFICATION
from mnv4_deploy.tasks.task import Task

_FILE_SUFFIXES = (".onnx", ".tflite")
# A mean of 127.5 and one of 0.5 x 255 that went through float32 are the same.
_SAME = 1e-4


def open_model_ref(
    what: str | ModelSource,
    *,
    task: Task = CLASSIFICATION,
    weights: str = "bundled",
    overrides: Mapping[str, str] = MappingProxyType({}),
) -> ModelRef:
    """Look at ``what``: the path of a .onnx or .tflite file, a model name, a PyTorch network.

    ``weights`` is a named model's, as ``models.weights.load_reference`` takes it. A file's
    preprocessing comes from ``overrides`` (see ``options.parse_options``), the manifest.json
    beside it if that lists this very file, or its metadata, in that order of preference. Its
    size is that of its input; ``size`` counts where that is free, and for PyTorch.
    Where only mean and std are known the whole image is shown, interpolated bicubically; for
    TFLite Metadata bilinearly, as its libraries do.

    Raises ModelFileError for a file that is damaged or crashes its runtime, UnsupportedError for
    one that takes no image or is not for ``task``, UnknownModelError, WeightsError, and
    InputError where the preprocessing is not known, saying which options to give.
    """
    options = parse_options(overrides)
    if isinstance(what, str) and _is_file(what):
        return _file_ref(what, task, options)
    return _torch_ref(as_source(what, weights, size=options.size), options)


def _is_file(text: str) -> bool:
    """A model's name counts before a file of that name, which is written ./name."""
    from mnv4_deploy.models import zoo

    if text.lower().endswith(_FILE_SUFFIXES):
        return True
    try:
        zoo.entry(text)
    except UnknownModelError as error:
        try:
            is_path = "/" in text or Path(text).exists()
        except (OSError, ValueError):
            is_path = False
        if not is_path:
            raise UnknownModelError(f"{error} A model file is given by its path.") from error
        return True
    return False


def _torch_ref(source: ModelSource, options: PreprocessingOptions) -> ModelRef:
    reference = options.applied_to(source.load(options.size))
    return ModelRef(
        kind="torch",
        name=source.name,
        path="",
        source=source,
        preprocessing=reference.preprocessing,
        preprocessing_from="options" if options.given else "model",
        labels=reference.labels,
        num_classes=reference.num_classes,
        sha256=reference.source.sha256 or "",
        size_bytes=sum(p.numel() * p.element_size() for p in reference.module.parameters()),
        notes=assumptions(reference),
    )


def _file_ref(text: str, task: Task, options: PreprocessingOptions) -> ModelRef:
    from mnv4_deploy.profiles.inspection.inspect import inspect_file
    from mnv4_deploy.profiles.isolated import run_isolated
    from mnv4_deploy.sessions.open import try_out
    from mnv4_deploy.sessions.quantization import boundary

    path = Path(text).absolute()
    facts = inspect_file(path)
    size = image_size(facts, options)
    classes, probabilities = task.recognise(facts)
    check_types(facts)
    inputs, outputs = boundary(facts)
    said = read_declared(facts, classes, size)
    base = said.preprocessing
    if base is None and not options.complete:
        raise InputError(
            f"{text} does not say how images are prepared for it: give --mean and --std of its "
            "training (of pixels scaled to 0..1), and --crop-pct and --interpolation if they are "
            "not 1 and bicubic."
        )
    if base is None:
        if size is None:
            raise InputError(f"{text} takes images of any size: give --size.")
        base = Preprocessing(*size)
    ref = ModelRef(
        kind=facts.format,
        name=path.name,
        path=str(path),
        inputs=inputs,
        outputs=outputs,
        preprocessing=options.over(base),
        preprocessing_from="options" if options.given else said.preprocessing_from,
        labels=said.labels,
        num_classes=classes,
        sha256=facts.sha256,
        size_bytes=facts.size_bytes,
        calibration_sha256=said.calibration_sha256,
        probabilities=probabilities,
        notes=said.notes,
    )
    shapes = run_isolated(try_out, ref, subject=str(path))
    found = task.check_shapes(str(path), shapes)
    if found != classes:  # labels could not be checked against a number that was not known
        said = read_declared(facts, found, size)
    return dataclasses.replace(ref, num_classes=found, labels=said.labels)


def check_pair(
    reference: ModelRef,
    candidate: ModelRef,
    *,
    task: Task = CLASSIFICATION,
    allow_preprocessing: bool = False,
) -> None:
    """Refuse two models whose outputs cannot be compared image by image.

    ``allow_preprocessing``: they may differ in mean, std, crop and interpolation, and each then
    sees its own. Their sizes may not. What else must be alike is the task's to say.

    Raises InputError that shows every difference.
    """
    differences = task.differences(reference, candidate)
    if reference.probabilities != candidate.probabilities:
        kinds = {False: "logits", True: "probabilities (softmax)"}
        outputs = (kinds[reference.probabilities], kinds[candidate.probabilities])
        differences.insert(0, ("output", *outputs))
    advice = "give two models of the same classes"
    if not differences:
        differences = _image_differences(reference, candidate, sizes_only=allow_preprocessing)
        advice = (
            "give two models of one preprocessing, or say what is true of both with --mean, "
            "--std, --crop-pct, --interpolation and --size"
        )
    if differences:
        raise InputError(
            f"{reference.name} and {candidate.name} cannot be compared ("
            + "; ".join(
                f"reference {what} {mine}, candidate {what} {theirs}"
                for what, mine, theirs in differences
            )
            + f"): {advice}."
        )


def _image_differences(
    reference: ModelRef, candidate: ModelRef, *, sizes_only: bool
) -> list[tuple[str, str, str]]:
    mine, theirs = (_fields(subject.preprocessing) for subject in (reference, candidate))
    return [
        (what, _shown(mine[what]), _shown(theirs[what]))
        for what in mine
        if not _alike(mine[what], theirs[what]) and (what == "size" or not sizes_only)
    ]


def _fields(spec: Preprocessing) -> dict[str, tuple[float, ...] | str]:
    return {
        "size": f"{spec.height}x{spec.width}",
        "mean": spec.mean,
        "std": spec.std,
        "crop_pct": (spec.crop_pct,),
        "interpolation": spec.interpolation,
    }


def _alike(mine: tuple[float, ...] | str, theirs: tuple[float, ...] | str) -> bool:
    if isinstance(mine, str) or isinstance(theirs, str):
        return mine == theirs
    return all(abs(a - b) <= _SAME for a, b in zip(mine, theirs, strict=True))


def _shown(value: tuple[float, ...] | str) -> str:
    return value if isinstance(value, str) else ",".join(f"{number:.6g}" for number in value)
