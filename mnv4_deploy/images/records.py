"""A data set, its images, and those that could not be used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

# RGB of 0..255, ``[height, width, 3]`` or ``[N, height, width, 3]``.
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class DatasetImage:
    """An image that was found but not opened. ``name`` is relative to the data set's folder.

    ``truth`` is the right answer as the task knows it (a class index), plain JSON, None where it
    is unknown.
    """

    path: str
    name: str
    truth: Any = None


@dataclass(frozen=True)
class Dataset:
    """Images in the order they will be used; ``labelled`` if any has a known answer."""

    name: str
    root: str
    images: tuple[DatasetImage, ...]

    @property
    def labelled(self) -> bool:
        return any(image.truth is not None for image in self.images)


@dataclass(frozen=True)
class SkippedImage:
    """A file that could not be used, and why. ``index`` is its place in the data set."""

    index: int
    name: str
    reason: str
