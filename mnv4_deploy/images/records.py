"""A data set, its images, and those that could not be used."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DatasetImage:
    """An image that was found but not opened. ``name`` is relative to the data set's folder.

    ``label`` is the class index, None where it is unknown.
    """

    path: str
    name: str
    label: int | None = None


@dataclass(frozen=True)
class Dataset:
    """Images in the order they will be used; ``labelled`` if any has a label."""

    name: str
    root: str
    images: tuple[DatasetImage, ...]

    @property
    def labelled(self) -> bool:
        return any(image.label is not None for image in self.images)


@dataclass(frozen=True)
class SkippedImage:
    """A file that could not be used, and why. ``index`` is its place in the data set."""

    index: int
    name: str
    reason: str
