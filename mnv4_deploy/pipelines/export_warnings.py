"""What an export does though it may not be what was meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnv4_deploy.exporters.records import ExportRequest
from mnv4_deploy.models.assumptions import assumptions

if TYPE_CHECKING:
    from mnv4_deploy.exporters.evaluation import Evaluation
    from mnv4_deploy.images.sets import SelectedImages
    from mnv4_deploy.models.weights import ReferenceModel


def warnings_of(
    request: ExportRequest,
    reference: ReferenceModel,
    calibration: SelectedImages | None,
    evaluation: Evaluation,
) -> tuple[str, ...]:
    """Sentences that tell what was assumed and what the figures lack, and what to give."""
    found = list(assumptions(reference))
    own = reference.source.kind == "file"
    if own and calibration is not None and _is_foreign(calibration):
        found.append(
            "The int8 ranges are of the built-in photographs, which are none of the "
            f"{reference.num_classes} classes of {reference.source.name}: give --calib a folder "
            "of images such as it will see."
        )
    if own and not evaluation.labelled:
        found.append(
            f"The images of '{evaluation.source.name}' have no known answers, so nothing is said "
            f"of {_accuracy(request)}: {request.task.truth_advice} as --eval."
        )
    elif evaluation.source.kind == "folder" and not (request.int8 or request.fp16):
        found.append(
            f"{_accuracy(request)} is measured of int8 and float16 files and of the float32 files "
            "beside them: add --int8 or --fp16."
        )
    return tuple(found)


def _is_foreign(images: SelectedImages) -> bool:
    """Whether they ship, and show nothing that the network was trained to tell."""
    return images.source.kind == "bundled" and all(truth is None for truth in images.truth)


def _accuracy(request: ExportRequest) -> str:
    return request.task.brief[0].title
