"""What nobody has said of a user's checkpoint, in sentences."""

from __future__ import annotations

from mnv4_deploy.models.records import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from mnv4_deploy.models.weights import ReferenceModel


def assumptions(reference: ReferenceModel) -> tuple[str, ...]:
    """A sentence for each assumption about a checkpoint file: what is assumed, and what to give.

    Other weights have everything with them, or are random and have no preprocessing to miss.
    """
    if reference.source.kind != "file":
        return ()
    found = []
    if reference.preprocessing_from == "assumed":
        found.append(
            f"The preprocessing of {reference.source.name} is assumed "
            f"({_described(reference.preprocessing)}): give --mean and --std of its training, and "
            "--crop-pct and --interpolation where they differ."
        )
    if reference.labels_from == "assumed":
        found.append(
            f"The class names of {reference.source.name} are assumed to be ImageNet's, as it has "
            f"{reference.num_classes} classes: give --labels if they are not."
        )
    return tuple(found)


def _described(spec: Preprocessing) -> str:
    crop = "the whole image" if spec.crop_pct == 1 else f"the centre {spec.crop_pct:.1%}"
    if (spec.mean, spec.std) == (IMAGENET_MEAN, IMAGENET_STD):
        return f"{crop}, {spec.interpolation}, ImageNet mean and std"
    mean, std = (tuple(round(255 * value, 2) for value in v) for v in (spec.mean, spec.std))
    return f"{crop}, {spec.interpolation}, mean {mean} and std {std} of 0..255"
