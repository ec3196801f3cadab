"""Sets of images for calibration and evaluation: find, check, choose, stream.

``open_folder``, ``bundled_set`` and ``photographs`` list images, whose right answers a task adds;
``select`` decodes each once, sets damaged ones aside by name and chooses evenly over classes;
``SelectedImages`` then gives their pixels, as often as needed.
"""

from __future__ import annotations

import csv
import hashlib
import os
import random
import stat
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from mnv4_deploy.errors import ImagesError
from mnv4_deploy.hashes import file_sha256
from mnv4_deploy.images.decode import opened_image
from mnv4_deploy.images.preprocessing import to_rgb, to_uint8
from mnv4_deploy.images.records import Pixels, SkippedImage
from mnv4_deploy.models import weights
from mnv4_deploy.models.records import Preprocessing

MIN_IMAGES = 16
EMPTY = "empty file"
MAX_BYTES = 2 << 30  # Pillow decodes at most 179 million pixels, of 8 bytes at most
SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
Kind = Literal["bundled", "folder", "random"]
Split = Literal["calibration", "evaluation"]
# From a decoded image to what the network sees of it, before normalisation: a task's own.
Prepare = Callable[[Image.Image, Preprocessing], Pixels]
_CC_BY = weights.DATA / "imagenet-cc-by"


@dataclass(frozen=True)
class ImageRef:
    """An image file. ``truth`` is the right answer, None where unknown (see ``DatasetImage``).

    ``class_name`` is the folder it was found in, or what else images are chosen evenly over.
    """

    path: Path
    truth: Any = None
    class_name: str = ""

    def pixels(self, spec: Preprocessing, prepare: Prepare = to_uint8) -> Pixels:
        if _is_endless(self.path):
            raise OSError(f"{self.path} is not a regular file")
        with opened_image(self.path) as image:
            return prepare(image, spec)


@dataclass(frozen=True)
class NoiseRef:
    """Uniform random pixels; stands for an image where the user asked for random data."""

    seed: int
    truth: None = None

    def pixels(self, spec: Preprocessing, prepare: Prepare = to_uint8) -> Pixels:
        del prepare
        generator = np.random.default_rng(self.seed)
        return generator.integers(0, 256, (spec.height, spec.width, 3), np.uint8)


@dataclass(frozen=True)
class ImageSet:
    """Images that were found but not yet opened. ``root`` is what names are relative to."""

    kind: Kind
    name: str
    root: Path
    refs: tuple[ImageRef, ...]


@dataclass(frozen=True)
class ImageSource:
    """Provenance of the images used, for the manifest.

    ``image_sha256`` has the hash of each file's bytes in the order used (empty for random
    data); ``sha256`` is over those hashes, one a line.
    """

    kind: Kind
    name: str
    count: int
    sha256: str
    image_sha256: tuple[str, ...] = ()
    skipped: tuple[SkippedImage, ...] = ()

    def overlap(self, other: ImageSource) -> int:
        """How many different files the two have in common, by content."""
        return len(set(self.image_sha256) & set(other.image_sha256))


@dataclass(frozen=True)
class SelectedImages:
    """Images that are known to decode, in the order they will be used."""

    source: ImageSource
    refs: tuple[ImageRef | NoiseRef, ...]

    @property
    def truth(self) -> tuple[Any, ...]:
        return tuple(ref.truth for ref in self.refs)

    def pixels(self, spec: Preprocessing, prepare: Prepare = to_uint8) -> Pixels:
        """All images as one RGB array ``[N, height, width, 3]``, not normalised.

        Raises:
            ImagesError: a file changed or vanished since it was selected.
        """
        return np.stack([_unchanged(ref, spec, prepare) for ref in self.refs])


def _unchanged(ref: ImageRef | NoiseRef, spec: Preprocessing, prepare: Prepare) -> Pixels:
    try:
        return ref.pixels(spec, prepare)
    except (OSError, ValueError) as error:
        raise ImagesError(
            f"{ref} changed while it was in use ({error}); run again when the image folder is "
            "left alone."
        ) from error


def open_folder(path: Path) -> ImageSet:
    """List the images under a folder, at any depth, in sorted order.

    The first folder level is their ``class_name`` where it is there. What has the name of an
    image but can never be one is passed over: a pipe, a device.

    Raises:
        ImagesError: not a folder, not readable, or no image in it.
    """
    if not path.is_dir():
        problem = "is a file, not a folder" if path.exists() else "does not exist"
        raise ImagesError(f"The image folder '{path}' {problem}; give a folder of images.")
    files = sorted(_walk(path), key=attrgetter("parts"))  # many times faster than whole paths
    if not files:
        raise ImagesError(
            f"The image folder '{path}' has no images; put "
            f"{', '.join(sorted(suffix[1:] for suffix in SUFFIXES))} files in it."
        )
    in_folders = [file.relative_to(path).parts for file in files]
    class_of = [parts[0] if len(parts) > 1 else "" for parts in in_folders]
    refs = tuple(
        ImageRef(file, class_name=name) for file, name in zip(files, class_of, strict=True)
    )
    return ImageSet("folder", path.resolve().name, path, refs)


def _walk(root: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise ImagesError(
            f"The image folder '{error.filename}' cannot be read ({error.strerror}); "
            "check its permissions."
        ) from error

    visited: set[Path] = set()
    for folder, subfolders, names in os.walk(root, onerror=refuse, followlinks=True):
        real = Path(folder).resolve()
        # Data sets are often trees of links; a link back up must not loop.
        if real in visited:
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in names:
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                path = Path(folder) / name
                if not _is_endless(path):
                    yield path


def _is_endless(path: Path) -> bool:
    """Whether reading ``path`` may never end; not so for a file that is missing or locked, of
    which those who read it tell."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def bundled_set(bundle: weights.Bundle, split: Split) -> ImageSet:
    """The sample images that ship with a checkpoint, in folders named like its classes."""
    found = open_folder(bundle.folder / split)
    return ImageSet("bundled", f"{bundle.name}/{split}", found.root, found.refs)


def photographs(split: Split) -> ImageSet:
    """The shipped CC BY photographs; ``class_name`` is the ImageNet-1k index of what they show.

    Those of "calibration" are never among those of "evaluation". Raises MissingLibraryError where
    they are not installed.
    """
    weights.check_demo_data()
    refs = tuple(
        ImageRef(_CC_BY / file, class_name=str(index))
        for file, index in _cc_by_files()
        if file.startswith(f"{split}/")
    )
    return ImageSet("bundled", f"imagenet-cc-by/{split}", _CC_BY / split, refs)


@cache
def _cc_by_files() -> tuple[tuple[str, int], ...]:
    with (_CC_BY / "labels.csv").open(encoding="utf-8", newline="") as file:
        return tuple((row["file"], int(row["imagenet_index"])) for row in csv.DictReader(file))


def select(
    images: ImageSet, limit: int | None = None, *, minimum: int = MIN_IMAGES, seed: int = 0
) -> SelectedImages:
    """Choose up to ``limit`` images that decode, evenly over classes, the same for one seed.

    The first N of a larger selection are the selection of N. Damaged files met on the way are
    replaced by others and recorded in ``source.skipped``.

    Raises:
        ImagesError: fewer than ``minimum`` images can be used, or ``limit`` is below it.
    """
    if limit is not None and limit < minimum:
        raise ImagesError(f"{limit} images are too few; use at least {minimum}.")
    chosen: list[ImageRef] = []
    hashes: list[str] = []
    skipped: list[SkippedImage] = []
    places = {ref.path: place for place, ref in enumerate(images.refs)}
    for ref in spread(images.refs, seed):
        if limit is not None and len(chosen) == limit:
            break
        reason = _defect(ref.path)
        if reason:
            name = str(ref.path.relative_to(images.root))
            skipped.append(SkippedImage(places[ref.path], name, reason))
        else:
            chosen.append(ref)
            hashes.append(file_sha256(ref.path))
    if len(chosen) < minimum:
        because = ""
        if skipped:
            named = ", ".join(f"{image.name}: {image.reason}" for image in skipped[:4])
            more = f", and {len(skipped) - 4} more" if len(skipped) > 4 else ""
            because = f" ({len(skipped)} cannot be used: {named}{more})"
        raise ImagesError(
            f"'{images.root}' has {len(chosen)} good images{because}; give at least {minimum}."
        )
    listing = "".join(f"{digest}\n" for digest in hashes)
    source = ImageSource(
        kind=images.kind,
        name=images.name,
        count=len(chosen),
        sha256=hashlib.sha256(listing.encode()).hexdigest(),
        image_sha256=tuple(hashes),
        skipped=tuple(skipped),
    )
    return SelectedImages(source, tuple(chosen))


def spread(refs: tuple[ImageRef, ...], seed: int) -> Iterator[ImageRef]:
    """One image of each class in turn, both in an order that only ``seed`` decides."""
    generator = random.Random(seed)
    by_class: defaultdict[str, list[ImageRef]] = defaultdict(list)
    for ref in refs:
        by_class[ref.class_name].append(ref)
    groups = list(by_class.values())
    generator.shuffle(groups)
    for group in groups:
        generator.shuffle(group)
    for turn in zip_longest(*groups):
        yield from (ref for ref in turn if ref is not None)


def _defect(path: Path) -> str:
    """Why an image cannot be used, or ""."""
    try:
        if _is_endless(path):
            return "not a regular file"
        size = path.stat().st_size
        if size == 0:
            return EMPTY
        if size > MAX_BYTES:
            return "larger than any image"
        with opened_image(path) as image:
            to_rgb(image)
    except OSError as error:
        return defect_of(error)
    return ""


def defect_of(error: Exception) -> str:
    """What is wrong with an image file that made PIL raise ``error``, in a few words."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    return str(getattr(error, "strerror", None) or error) or type(error).__name__


def random_images(count: int, seed: int = 0) -> SelectedImages:
    """Noise instead of images, only for those who ask for it; ``source.kind`` is "random".

    Raises:
        ImagesError: ``count`` is below 16.
    """
    if count < MIN_IMAGES:
        raise ImagesError(f"{count} images are too few; use at least {MIN_IMAGES}.")
    digest = hashlib.sha256(f"uniform noise {seed} {count}".encode()).hexdigest()
    source = ImageSource("random", f"uniform noise, seed {seed}", count, digest)
    seeds = np.random.SeedSequence(seed).generate_state(count)
    return SelectedImages(source, tuple(NoiseRef(int(state)) for state in seeds))
