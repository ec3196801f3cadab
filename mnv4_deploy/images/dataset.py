"""The images that two models are compared on: listed in the order they will be used."""

from __future__ import annotations

import os
from collections.abc import Sequence

from mnv4_deploy.errors import ImagesError
from mnv4_deploy.images.records import Dataset, DatasetImage
from mnv4_deploy.images.sets import MIN_IMAGES, ImageRef, ImageSet, spread


def make_dataset(found: ImageSet, *, limit: int | None = None, seed: int = 0) -> Dataset:
    """``found`` as a data set; none of its files is opened.

    ``limit`` chooses that many, evenly over the classes; the first N of a larger choice are the
    choice of N. Without it the order is that of the sorted paths.

    Raises ImagesError for fewer than 16 images.
    """
    if limit is not None and limit < MIN_IMAGES:
        raise ImagesError(f"{limit} images are too few: use at least {MIN_IMAGES}.")
    if len(found.refs) < MIN_IMAGES:
        raise ImagesError(
            f"'{found.root}' has {len(found.refs)} images: give at least {MIN_IMAGES}."
        )
    refs: Sequence[ImageRef] = found.refs
    if limit is not None:
        refs = list(spread(found.refs, seed))[:limit]
    root = f"{found.root}{os.sep}"
    return Dataset(
        name=found.name,
        root=str(found.root),
        images=tuple(
            DatasetImage(str(ref.path), str(ref.path).removeprefix(root), ref.truth)
            for ref in refs
        ),
    )
