"""Where a head without names of its own gets them: a file of names, or the folders of images."""

from __future__ import annotations

from pathlib import Path

from mnv4_deploy.errors import InputError
from mnv4_deploy.images.sets import ImageSet, open_folder
from mnv4_deploy.json_text import load_json
from mnv4_deploy.profiles.files.regular import read_regular
from mnv4_deploy.tasks.classification.dataset import relative_names
from mnv4_deploy.tasks.classification.labels import Head, as_index
from mnv4_deploy.tasks.classification.labels_file import find_labels_file, names_an_image
from mnv4_deploy.tasks.task import ClassNames, Model

_MAX_BYTES = 1 << 24


def name_classes(
    model: Model, source: str, folder: Path | None, labels_file: str | None
) -> ClassNames:
    """See ``Task.name_classes``. Names in ``labels_file`` count before all others.

    The subfolders of ``folder`` name the classes by sorted order, as torchvision's ImageFolder
    does, where there are as many and the head knows none of them. Numbers are indices, no names.

    Raises InputError for a ``labels_file`` that cannot be read, or that neither labels images of
    the folder nor has a name for each class.
    """
    known = ClassNames(model.labels, source, labels_file)
    if labels_file is not None:
        path = Path(labels_file).expanduser()
        if folder is not None and names_an_image(path, relative_names(*_opened(folder))):
            return known
        return ClassNames(_read_names(path, model), "labels file")
    unnamed = source in ("", "assumed")
    names = _folder_names(model, folder) if unnamed and folder is not None else ()
    return ClassNames(names, "evaluation folder") if names else known


def _opened(folder: Path) -> tuple[ImageSet, Path]:
    root = folder.expanduser().absolute()
    return open_folder(root), root


def _folder_names(model: Model, folder: Path) -> tuple[str, ...]:
    found, root = _opened(folder)
    if find_labels_file(root, relative_names(found, root)):
        return ()
    head = Head.of(model)
    names = tuple(sorted({ref.class_name for ref in found.refs} - {""}))
    strange = all(head.find(name) is None and as_index(name) is None for name in names)
    return names if strange and len(names) == model.num_classes else ()


def _read_names(path: Path, model: Model) -> tuple[str, ...]:
    """One name a line, or a JSON list of them."""
    try:
        text = read_regular(path, max_bytes=_MAX_BYTES).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InputError(f"The labels file {path} cannot be read: {reason}.") from error
    try:
        listed = load_json(text)
    except (ValueError, RecursionError):
        listed = None
    lines = listed if isinstance(listed, list) else text.strip("\r\n").splitlines()
    names = tuple(name.strip() for name in lines if isinstance(name, str))
    if len(names) != model.num_classes or not all(names):
        raise InputError(
            f"{path} has {len(names)} lines, {model.name} {model.num_classes} classes: give the "
            "name of each class on a line of its own, in the order of the outputs, or the labels "
            "of the images, each line with an image file that is there and its class."
        )
    return names
