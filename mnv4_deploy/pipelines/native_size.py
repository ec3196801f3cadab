"""What a size other than that of the weights costs a network, before anything is converted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mnv4_deploy.exporters.records import Drift, ExportRequest

if TYPE_CHECKING:
    from mnv4_deploy.exporters.evaluation import Evaluation
    from mnv4_deploy.images.records import Pixels
    from mnv4_deploy.models.records import Preprocessing
    from mnv4_deploy.models.weights import ReferenceModel
    from mnv4_deploy.sessions.outputs import Outputs

# Enough to see what matters: 10 points of 200 images are hardly chance.
_IMAGES = 200


def asks_for_another_size(request: ExportRequest, evaluation: Evaluation) -> bool:
    """Whether there is a size, and there are true answers to judge it by."""
    return request.size is not None and evaluation.labelled


def size_warnings(
    request: ExportRequest, reference: ReferenceModel, evaluation: Evaluation
) -> tuple[str, ...]:
    """A sentence where ``reference``, of ``request.size``, is worse than at its weights' size by
    more than chance, on the first images of ``evaluation``."""
    from mnv4_deploy.images.sets import ImageRef, SelectedImages

    native = replace(request, size=None).source.load()
    there = replace(
        reference,
        module=native.module,
        preprocessing=request.preprocessing.applied_to(native).preprocessing,
    )
    if _side(there.preprocessing) == _side(reference.preprocessing):
        return ()
    few = replace(
        evaluation, images=evaluation.images[:_IMAGES], pixels=evaluation.pixels[:_IMAGES]
    )
    refs = tuple(ImageRef(Path(image.path)) for image in few.images)
    pixels = SelectedImages(few.source, refs).pixels(there.preprocessing, request.task.prepare)
    at_size, at_native = _outputs(reference, few.pixels), _outputs(there, pixels)
    drift = few.drift(_side(reference.preprocessing), at_size, at_native)
    low, _ = drift.interval or (0.0, 0.0)
    if low <= 0:
        return ()
    return (_sentence(request, drift, there.preprocessing, reference.preprocessing),)


def _outputs(reference: ReferenceModel, pixels: Pixels) -> Outputs:
    from mnv4_deploy.exporters.verify import run_module

    return run_module(reference.module, pixels, reference.preprocessing, reference.outputs)


def _side(spec: Preprocessing) -> str:
    return f"{spec.height}x{spec.width}"


def _sentence(
    request: ExportRequest, drift: Drift, native: Preprocessing, asked: Preprocessing
) -> str:
    column = request.task.brief[0]
    unit = request.task.metrics[column.metric].unit
    there, here = (
        f"{drift.figures[metric]:.1f} {unit}".rstrip()
        for metric in (column.reference_metric, column.metric)
    )
    return (
        f"At {_side(asked)} {column.title} of the PyTorch network is {here}, and {there} at "
        f"{_side(native)}, the size of its weights ({drift.images} images): leave out --size, or "
        "train it at that size."
    )
