"""Sets of images for calibration and evaluation: find, check, choose, stream.

``open_folder`` and the ``bundled_*`` functions list images; ``select`` decodes each once,
sets damaged ones aside by name and chooses evenly over classes; ``SelectedImages.arrays``
then streams model inputs, as often as needed, holding one image at a time.
"""

from __future__ import annotations

import csv
import hashlib
import os
import random
import stat
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from mnv4_deploy.errors import ImagesError
from mnv4_deploy.images.preprocessing import normalize, to_rgb, to_uint8
from mnv4_deploy.models import weights
from mnv4_deploy.models.checkpoint_file import file_sha256
from mnv4_deploy.models.records import Preprocessing

if TYPE_CHECKING:
    from mnv4_deploy.models.weights import ReferenceModel

MIN_IMAGES = 16
EMPTY = "empty file"
MAX_BYTES = 2 << 30  # Pillow decodes at most 179 million pixels, of 8 bytes at most
SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
Kind = Literal["bundled", "folder", "random"]
Split = Literal["calibration", "evaluation"]
_CC_BY = weights.DATA / "imagenet-cc-by"


@dataclass(frozen=True)
class ImageRef:
    """An image file. ``label`` is its class index, None where the truth is not known."""

    path: Path
    label: int | None = None
    class_name: str = ""

    def pixels(self, spec: Preprocessing) -> npt.NDArray[np.uint8]:
        if _is_endless(self.path):
            raise OSError(f"{self.path} is not a regular file")
        with Image.open(self.path) as image:
            return to_uint8(image, spec)


@dataclass(frozen=True)
class NoiseRef:
    """Uniform random pixels; stands for an image where the user asked for random data."""

    seed: int
    label: None = None

    def pixels(self, spec: Preprocessing) -> npt.NDArray[np.uint8]:
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
class SkippedImage:
    """A file that could not be used, and why."""

    name: str
    reason: str


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
    def labels(self) -> tuple[int | None, ...]:
        return tuple(ref.label for ref in self.refs)

    def uint8_arrays(self, spec: Preprocessing) -> Iterator[npt.NDArray[np.uint8]]:
        """Each image as RGB ``[height, width, 3]``, not normalised.

        Raises:
            ImagesError: a file changed or vanished since it was selected.
        """
        for ref in self.refs:
            try:
                yield ref.pixels(spec)
            except (OSError, ValueError) as error:
                raise ImagesError(
                    f"{ref} changed while it was in use ({error}); run again when the image "
                    "folder is left alone."
                ) from error

    def arrays(self, spec: Preprocessing) -> Iterator[npt.NDArray[np.float32]]:
        """Each image as the model's float32 input ``[height, width, 3]``; errors as above."""
        for pixels in self.uint8_arrays(spec):
            yield normalize(pixels, spec)

    def batches(self, spec: Preprocessing, batch_size: int) -> Iterator[npt.NDArray[np.float32]]:
        """``[batch, height, width, 3]`` float32; the last batch may be smaller."""
        batch: list[npt.NDArray[np.float32]] = []
        for array in self.arrays(spec):
            batch.append(array)
            if len(batch) == batch_size:
                yield np.stack(batch)
                batch = []
        if batch:
            yield np.stack(batch)


def open_folder(path: Path, labels: tuple[str, ...] = ()) -> ImageSet:
    """List the images under a folder, at any depth, in sorted order.

    The first folder level gives the class where it is there: a folder named like a label (or
    one of its comma-separated synonyms), a WordNet id if ``labels`` are ImageNet's, or, when
    no folder is recognised and there are exactly as many as labels, by sorted order (the
    convention of torchvision's ``ImageFolder``). Other images have no label. What has the name
    of an image but can never be one is passed over: a pipe, a device.

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
    index = _class_indices(sorted(set(class_of) - {""}), labels)
    refs = tuple(
        ImageRef(file, index.get(name), name) for file, name in zip(files, class_of, strict=True)
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


def _class_indices(folders: list[str], labels: tuple[str, ...]) -> dict[str, int]:
    known: dict[str, int] = {}
    if labels and labels == weights.imagenet_labels(len(labels)):
        known = {wnid: i for i, (wnid, _) in enumerate(weights.read_labels(len(labels)))}
    else:
        for i, label in enumerate(labels):
            for synonym in (label, *label.split(",")):
                known.setdefault(_folded(synonym), i)
    found = {name: known[key] for name in folders if (key := _folded(name)) in known}
    if not found and folders and len(folders) == len(labels):
        return {name: i for i, name in enumerate(folders)}
    return found


def _folded(name: str) -> str:
    return name.strip().casefold().replace("_", " ")


def bundled_calibration(reference: ReferenceModel) -> ImageSet:
    """The shipped images to calibrate a model with; never among the evaluation images.

    A head with a bundled data set's classes gets that set's sample, any other head CC BY
    photographs, which carry labels if the head is ImageNet-1k's.
    """
    return bundled("calibration", reference.labels)


def bundled_evaluation(reference: ReferenceModel) -> ImageSet:
    """The shipped images to compare and evaluate a model on; see ``bundled_calibration``."""
    return bundled("evaluation", reference.labels)


def bundled(split: Split, labels: tuple[str, ...]) -> ImageSet:
    """The shipped images of a split for a head with these labels; see ``bundled_calibration``."""
    for bundle in weights.bundles():
        if bundle.labels == labels:
            found = open_folder(bundle.folder / split, bundle.labels)
            return ImageSet("bundled", f"{bundle.name}/{split}", found.root, found.refs)
    is_imagenet = labels == weights.imagenet_labels(1000)
    refs = tuple(
        ImageRef(_CC_BY / file, index if is_imagenet else None, str(index))
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
    for ref in spread(images.refs, seed):
        if limit is not None and len(chosen) == limit:
            break
        reason = _defect(ref.path)
        if reason:
            skipped.append(SkippedImage(str(ref.path.relative_to(images.root)), reason))
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
        with Image.open(path) as image:
            to_rgb(image)
    except Exception as error:  # PIL's decoders raise nearly anything on damaged files
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
