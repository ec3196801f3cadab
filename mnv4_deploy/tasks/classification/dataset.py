"""The images of a classifier: found and labelled, but not opened."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from mnv4_deploy.errors import ImagesError
from mnv4_deploy.images import sets as images
from mnv4_deploy.images.sets import ImageRef, ImageSet, Split
from mnv4_deploy.models.weights import bundles, imagenet_labels
from mnv4_deploy.tasks.classification.labels import Head, as_index
from mnv4_deploy.tasks.classification.labels_file import find_labels_file, read_labels_file

_IMAGENET = 1000


def bundled_images(split: Split, head: Head) -> ImageSet:
    """What ships for a head: CIFAR-10's sample for one with its labels, otherwise photographs,
    which have labels where the head is ImageNet's."""
    # The shipped images go by the labels' spelling in this package.
    labels = imagenet_labels(len(head.own_labels)) if head.is_imagenet else head.own_labels
    for bundle in bundles():
        if bundle.labels == labels:
            found = images.bundled_set(bundle, split)
            index = {label: at for at, label in enumerate(labels)}
            return _labelled(found, [index[ref.class_name] + head.offset for ref in found.refs])
    found = images.photographs(split)
    if labels != imagenet_labels(_IMAGENET):
        return found
    return _labelled(found, [int(ref.class_name) + head.offset for ref in found.refs])


def folder_images(folder: Path, head: Head, labels_file: str | None = None) -> ImageSet:
    """The images of a folder with their classes.

    These come from ``labels_file``, one found in the folder (see ``labels_file``), or its
    subfolders: named like a class, a WordNet id or a class index, or as many as there are
    classes, by sorted order. Images without any of these have no label.

    Raises ImagesError for a folder that is not there, cannot be read or has no images, and for
    labels that are not classes of the head, naming one.
    """
    folder = folder.expanduser().absolute()
    found = images.open_folder(folder)
    names = relative_names(found, folder)
    path = Path(labels_file).expanduser() if labels_file else find_labels_file(folder, names)
    if path is not None:
        labels = read_labels_file(path, names, head)
        per_image = [labels.get(name) for name in names]
        classes = ["" if label is None else str(label) for label in per_image]
    else:
        index = _folder_classes(
            sorted({ref.class_name for ref in found.refs} - {""}), folder, head
        )
        per_image = [index.get(ref.class_name) for ref in found.refs]
        classes = [ref.class_name for ref in found.refs]
    refs = (
        ImageRef(ref.path, label, class_name)
        for ref, label, class_name in zip(found.refs, per_image, classes, strict=True)
    )
    return dataclasses.replace(found, refs=tuple(refs))


def relative_names(found: ImageSet, folder: Path) -> list[str]:
    """The paths of the images below ``folder``, with slashes on every system."""
    root = f"{folder}{os.sep}"
    return [str(ref.path).removeprefix(root).replace(os.sep, "/") for ref in found.refs]


def _labelled(found: ImageSet, labels: list[int]) -> ImageSet:
    refs = (
        dataclasses.replace(ref, truth=label)
        for ref, label in zip(found.refs, labels, strict=True)
    )
    return dataclasses.replace(found, refs=tuple(refs))


def _folder_classes(folders: list[str], folder: Path, head: Head) -> dict[str, int]:
    """The class index of each subfolder; none where there is at most one and it is no class."""
    known = {name: head.find(name) for name in folders}
    found = {name: index for name, index in known.items() if index is not None}
    if len(found) == len(folders):
        return found
    indices = {name: index for name in folders if (index := as_index(name)) is not None}
    if indices.keys() == known.keys() and all(0 <= i < head.num_classes for i in indices.values()):
        return indices
    if not found and len(folders) == head.num_classes:
        return {name: index for index, name in enumerate(folders)}
    if len(folders) == 1:
        return {}
    strange = next(name for name in folders if name not in found)
    names = f"as {head.labels[-1]!r} is" if head.labels else "but their names are unknown"
    raise ImagesError(
        f"'{folder}' has {len(folders)} subfolders, and {strange!r} is none of the "
        f"{head.num_classes} classes of {head.name}, {names}: name them like its classes, or put "
        "all images in one folder to use them without labels."
    )
