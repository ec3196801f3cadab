"""Labels that stand in a file beside the images: CSV, or lines of a name and a class."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mnv4_deploy.errors import ImagesError
from mnv4_deploy.profiles.files.regular import read_regular
from mnv4_deploy.tasks.classification.labels import Head, as_index

_USUAL_NAMES = ("labels.csv", "labels.txt", "val.txt")
_FILE_COLUMNS = ("file", "filename", "file_name", "path", "image", "image_id", "imageid")
# The most precise first.
_IMAGENET_COLUMN = "imagenet_index"
_LABEL_COLUMNS = (
    _IMAGENET_COLUMN,
    "synset",
    "wnid",
    "wordnet_id",
    "label",
    "class",
    "class_index",
    "target",
    "class_name",
    "predictionstring",  # Kaggle's listing of the ImageNet validation set
)
_DELIMITERS = ",;\t"
_MAX_BYTES = 1 << 30  # ten million lines of a hundred characters


@dataclass(frozen=True)
class _Row:
    """One line: the image it names and what it says of its class."""

    image: str
    value: str
    is_imagenet_index: bool


class _Images:
    """Finds an image by its relative path, its name, or its name without the ending."""

    def __init__(self, names: Iterable[str]) -> None:
        self._paths = frozenset(names)
        self._by_key: dict[str, str | None] = {}
        for name in self._paths:
            last = name.rpartition("/")[2]
            for key in {last, last.rpartition(".")[0]}:
                # Two images of one name are told apart by their folders only.
                self._by_key[key] = None if key in self._by_key else name

    def find(self, text: str) -> str | None:
        path = text.strip().replace("\\", "/").removeprefix("./")
        return path if path in self._paths else self._by_key.get(path)


def find_labels_file(folder: Path, names: Sequence[str]) -> Path | None:
    """The labels file of an image folder: a usual name, or the only .csv with its columns.

    ``names`` are the images, relative to the folder. A list of class names that happens to be
    called labels.txt is none.

    Raises ImagesError where several files would do.
    """
    images = _Images(names)
    for usual in _USUAL_NAMES:
        if (folder / usual).is_file() and _names_any(folder / usual, images):
            return folder / usual
    others = [path for path in sorted(folder.glob("*.csv")) if path.is_file()]
    found = [path for path in others if _names_any(path, images, need_heads=True)]
    if len(found) > 1:
        raise ImagesError(
            f"'{folder}' has several labels files ({', '.join(path.name for path in found[:4])}):"
            " give one with --labels."
        )
    return found[0] if found else None


def names_an_image(path: Path, names: Sequence[str]) -> bool:
    """Whether ``path`` is a labels file of any of the images ``names``."""
    return _names_any(path, _Images(names))


def _names_any(path: Path, images: _Images, *, need_heads: bool = False) -> bool:
    try:
        rows = _read(path, need_heads=need_heads)
    except ImagesError:
        return False
    return any(images.find(row.image) for row in rows)


def read_labels_file(path: Path, names: Sequence[str], head: Head) -> dict[str, int]:
    """The class index of each image that ``path`` names, by its name in ``names``.

    A value is a class index, a WordNet id or a class name. Indices are the head's own, but those
    of a column ``imagenet_index`` are moved for a head with a background class. Images that are
    not there are passed over.

    Raises ImagesError for a file that cannot be read, names none of the images, names one twice
    with different classes, or has a class that is not the head's.
    """
    images = _Images(names)
    labels: dict[str, int] = {}
    example = ""
    for row in _read(path):
        name = images.find(row.image)
        if name is None:
            example = example or row.image
            continue
        label = _class_of(row, path, head)
        if labels.setdefault(name, label) != label:
            raise ImagesError(
                f"{path} gives {name!r} two classes, {labels[name]} and {label}: correct it."
            )
    if not labels:
        which = f", such as {example!r}" if example else ""
        raise ImagesError(
            f"{path} names none of the images beside it{which}: each line needs an image file and "
            "its class, under the columns file and label or as name and class."
        )
    return labels


def _class_of(row: _Row, path: Path, head: Head) -> int:
    value = row.value.strip()
    named = head.find(value)
    if named is None and value:
        named = head.find(value.split()[0])  # a WordNet id and a box
    if named is not None:
        return named
    index = as_index(value)
    if index is not None:
        index += head.offset if row.is_imagenet_index else 0
        if 0 <= index < head.num_classes:
            return index
        raise ImagesError(
            f"{path} says class {value} of {row.image!r}, but {head.name} has {head.num_classes} "
            f"classes (0 to {head.num_classes - 1}): give labels of its classes."
        )
    known = f"such as {head.labels[-1]!r}" if head.labels else "by their index: it has no names"
    raise ImagesError(
        f"{path} says class {value!r} of {row.image!r}, which {head.name} does not know: give its "
        f"classes, {known}."
    )


def _read(path: Path, *, need_heads: bool = False) -> list[_Row]:
    try:
        data = read_regular(path, max_bytes=_MAX_BYTES)
        text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig").read()
        is_table = path.suffix.lower() == ".csv" or any(
            delimiter in text.partition("\n")[0] for delimiter in _DELIMITERS
        )
        return _table(text, need_heads=need_heads) if is_table else _lines(text)
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text in rows"
        raise ImagesError(f"The labels file {path} cannot be read: {reason}.") from error


def _lines(text: str) -> list[_Row]:
    """``name class`` a line; the name has no spaces, unless the class is a number."""
    rows = []
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, value = line.rpartition(" ")
        if as_index(value) is None:
            name, _, value = line.partition(" ")
        if name and value:
            rows.append(_Row(name, value, False))
    return rows


def _table(text: str, *, need_heads: bool) -> list[_Row]:
    """Columns by their heads; without heads that are known the first two, or nothing."""
    lines = text.splitlines()
    delimiter = max(_DELIMITERS, key=(lines or [""])[0].count)
    rows = [row for row in csv.reader(lines, delimiter=delimiter) if row]
    heads = [cell.strip().casefold() for cell in rows[0]] if rows else []
    image = next((heads.index(name) for name in _FILE_COLUMNS if name in heads), None)
    label = next((heads.index(name) for name in _LABEL_COLUMNS if name in heads), None)
    if image is None or label is None:
        return [] if need_heads else [_Row(row[0], row[1], False) for row in rows if len(row) > 1]
    is_imagenet = heads[label] == _IMAGENET_COLUMN
    width = max(image, label)
    return [_Row(row[image], row[label], is_imagenet) for row in rows[1:] if len(row) > width]
