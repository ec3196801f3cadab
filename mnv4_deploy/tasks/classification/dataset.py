"""The images that two subjects are compared on: found and labelled, but not opened."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from mnv4_deploy.errors import ImagesError
from mnv4_deploy.images import sets as images
from mnv4_deploy.images.records import Dataset, DatasetImage
from mnv4_deploy.images.sets import ImageRef, ImageSet
from mnv4_deploy.models.weights import imagenet_labels
from mnv4_deploy.sessions.records import ModelRef
from mnv4_deploy.tasks.classification.labels import Head, as_index
from mnv4_deploy.tasks.classification.labels_file import find_labels_file, read_labels_file

BUNDLED = "bundled"


def open_dataset(
    spec: str,
    reference: ModelRef,
    *,
    limit: int | None = None,
    seed: int = 0,
    labels_file: str | None = None,
) -> Dataset:
    """List the images of ``spec``, "bundled" or a folder, with class indices of ``reference``.

    "bundled" is what an export evaluates on: CIFAR-10 for a head with its labels, otherwise
    photographs, which have labels where the head is ImageNet's.
    The labels of a folder come from ``labels_file``, one found in it (see ``labels_file``), or
    its subfolders: named like a class, a WordNet id or a class index, or as many as there are
    classes, by sorted order. Images without any of these have no label.
    ``limit`` chooses that many, evenly over the classes; the first N of a larger choice are the
    choice of N. Without it the order is that of the sorted paths.

    Raises ImagesError for a folder that is not there, cannot be read or has fewer than 16
    images, and for labels that are not classes of the reference, naming one.
    """
    if limit is not None and limit < images.MIN_IMAGES:
        raise ImagesError(f"{limit} images are too few: use at least {images.MIN_IMAGES}.")
    head = Head.of(reference)
    if spec == BUNDLED:
        found = _bundled(head)
    else:
        found = _folder(Path(spec).expanduser().absolute(), head, labels_file)
    if len(found.refs) < images.MIN_IMAGES:
        raise ImagesError(
            f"'{spec}' has {len(found.refs)} images: give at least {images.MIN_IMAGES}."
        )
    refs: Sequence[ImageRef] = found.refs
    if limit is not None:
        refs = list(images.spread(found.refs, seed))[:limit]
    root = f"{found.root}{os.sep}"
    chosen = (str(ref.path).removeprefix(root) for ref in refs)
    return Dataset(
        name=found.name,
        root=str(found.root),
        images=tuple(
            DatasetImage(str(ref.path), name, ref.label)
            for ref, name in zip(refs, chosen, strict=True)
        ),
    )


def _bundled(head: Head) -> ImageSet:
    # The shipped photographs go by the labels' spelling in this package.
    labels = imagenet_labels(len(head.own_labels)) if head.is_imagenet else head.own_labels
    found = images.bundled("evaluation", labels)
    return dataclasses.replace(
        found,
        refs=tuple(
            ref if ref.label is None else dataclasses.replace(ref, label=ref.label + head.offset)
            for ref in found.refs
        ),
    )


def _folder(folder: Path, head: Head, labels_file: str | None) -> ImageSet:
    found = images.open_folder(folder)
    root = f"{folder}{os.sep}"
    names = [str(ref.path).removeprefix(root).replace(os.sep, "/") for ref in found.refs]
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
