"""A reference model with weights: bundled, from a package, from timm, from a file, or random."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from mnv4_deploy.errors import InputError, WeightsError, missing_demo_data
from mnv4_deploy.json_text import load_json
from mnv4_deploy.models import checkpoint_file, hub, package_weights, zoo
from mnv4_deploy.models.macs import count_parameters
from mnv4_deploy.models.records import (
    LOGITS,
    OutputSpec,
    Preprocessing,
    WeightsSource,
)

if TYPE_CHECKING:
    from torch import nn

DATA = Path(__file__).parent / "data"
_LABEL_FILES = {1000: "imagenet1k-labels.txt", 11821: "imagenet12k-labels.txt"}


@dataclass(frozen=True)
class ReferenceModel:
    """A model in eval mode, float32, NCHW, and everything that belongs to its weights.

    ``labels`` has ``num_classes`` names, or is empty where the names are unknown; a network
    without classes has 0. ``labels_from`` and ``preprocessing_from`` say where the two were found:
    "weights" (with them), "assumed" or whatever has replaced them since; "" for no labels.
    ``outputs`` are what it returns, in that order; ``probabilities``: out
    of a softmax.
    """

    name: str
    module: nn.Module
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    source: WeightsSource
    parameters: int
    num_classes: int
    outputs: tuple[OutputSpec, ...] = (LOGITS,)
    probabilities: bool = False
    labels_from: str = "weights"
    preprocessing_from: str = "weights"


@dataclass(frozen=True)
class Bundle:
    """A checkpoint that ships with the package, with its sample images."""

    folder: Path
    model: str
    name: str
    sha256: str
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    note: str


def check_demo_data() -> None:
    """Raise MissingLibraryError where the shipped network and photographs are not installed."""
    if not bundles():
        raise missing_demo_data("This needs the demonstration's network or photographs")


@cache
def bundles() -> tuple[Bundle, ...]:
    """All bundled checkpoints: one folder of ``data/`` with a ``bundle.toml`` each."""
    return tuple(_read_bundle(path) for path in sorted(DATA.glob("*/bundle.toml")))


def _read_bundle(path: Path) -> Bundle:
    facts = tomllib.loads(path.read_text(encoding="utf-8"))
    height, width = facts["input_size"]
    return Bundle(
        folder=path.parent,
        model=facts["model"],
        name=facts["name"],
        sha256=facts["sha256"],
        preprocessing=Preprocessing(
            height=height,
            width=width,
            mean=tuple(facts["mean"]),
            std=tuple(facts["std"]),
            crop_pct=facts["crop_pct"],
            interpolation=facts["interpolation"],
        ),
        labels=tuple(facts["labels"]),
        note=facts["note"],
    )


def find_bundle(name: str) -> Bundle | None:
    """The bundled checkpoint of a model, if it has one."""
    return next((bundle for bundle in bundles() if bundle.model == name), None)


@cache
def read_labels(num_classes: int) -> tuple[tuple[str, str], ...]:
    """(WordNet id, name) of each class of an ImageNet head: 1,000 or timm's 11,821; else ()."""
    if num_classes not in _LABEL_FILES:
        return ()
    text = (DATA / _LABEL_FILES[num_classes]).read_text(encoding="utf-8")
    rows = (line.partition("\t") for line in text.splitlines())
    return tuple((wordnet_id, name) for wordnet_id, _, name in rows)


def imagenet_labels(num_classes: int) -> tuple[str, ...]:
    """The class names of an ImageNet head, or () for any other number of classes."""
    return tuple(name for _, name in read_labels(num_classes))


def choices(name: str) -> tuple[str, ...]:
    """Every ``--weights`` value for a model besides a path, its default first.

    Raises:
        UnknownModelError: no such model.
    """
    name = zoo.entry(name).name
    bundled = ("bundled",) if find_bundle(name) else ()
    packaged = ("pypi",) if package_weights.find(name) else ()
    return (*bundled, *packaged, *(f"timm:{c.tag}" for c in hub.checkpoints(name)), "random")


def load_reference(
    name: str,
    weights: str = "bundled",
    *,
    size: tuple[int, int] | None = None,
    num_classes: int | None = None,
) -> ReferenceModel:
    """Build a model and load its weights.

    ``weights`` is ``bundled``, ``pypi``, ``timm[:TAG]``, ``random[:SEED]`` or a path (write
    ``./timm`` for a file of that name). ``size`` is (height, width); by default the checkpoint's
    own: the bundled one's, for timm the resolution it was trained at, otherwise the model's
    native size. ``num_classes`` is needed for random weights only; elsewhere it must agree.

    Raises:
        UnknownModelError: no such model.
        InputError: illegal ``size`` or ``num_classes``.
        WeightsError: no such weights, or they do not fit; the message says what to do.
    """
    name = zoo.entry(name).name
    if size is not None:
        zoo.check_size(name, size)
    kind, _, detail = weights.partition(":")
    match kind:
        case "bundled" if not detail:
            reference = _load_bundled(name, num_classes)
        case "pypi" if not detail:
            reference = _load_packaged(name, num_classes)
        case "timm":
            return _load_timm(name, detail, size, num_classes)
        case "random":
            reference = _load_random(name, detail, num_classes)
        case "":
            raise WeightsError(f"No weights were given; choose {', '.join(choices(name))}.")
        case _:
            reference = _load_file(name, Path(weights).expanduser(), num_classes)
    if size is None:
        return reference
    spec = dataclasses.replace(reference.preprocessing, height=size[0], width=size[1])
    return dataclasses.replace(reference, preprocessing=spec)


def _load_bundled(name: str, num_classes: int | None) -> ReferenceModel:
    bundle = find_bundle(name)
    if bundle is None:
        check_demo_data()
        pypi = "--weights pypi (ImageNet-1k), " if package_weights.find(name) else ""
        timm = "--weights timm (ImageNet-1k), " if hub.checkpoints(name) else ""
        raise WeightsError(
            f"{name} has no bundled weights (only "
            f"{', '.join(bundle.model for bundle in bundles())} has); choose {pypi}{timm}"
            "the path of a checkpoint, or --weights random."
        )
    checkpoint = checkpoint_file.read(bundle.folder / "weights.safetensors")
    if checkpoint.sha256 != bundle.sha256:
        raise WeightsError(
            f"The bundled weights '{checkpoint.path}' are damaged (their sha256 is not the "
            "recorded one); install the package again."
        )
    source = WeightsSource("bundled", bundle.name, sha256=bundle.sha256, note=bundle.note)
    return _assemble(
        name,
        checkpoint,
        num_classes,
        preprocessing=bundle.preprocessing,
        labels=bundle.labels,
        source=source,
    )


def _load_packaged(name: str, num_classes: int | None) -> ReferenceModel:
    published = package_weights.find(name)
    if published is None:
        raise WeightsError(
            f"No package with weights of {name} is known; choose {', '.join(choices(name))}, or "
            "the path of a checkpoint."
        )
    _check_classes("--weights pypi", published.num_classes, num_classes)
    checkpoint = checkpoint_file.read(package_weights.locate(published))
    if checkpoint.sha256 != published.sha256:
        raise WeightsError(
            f"'{checkpoint.path}' is not the file of {published.package} {published.version} (its "
            f"sha256 is not the recorded one); run {published.install} --force-reinstall."
        )
    source = WeightsSource(
        "pypi",
        published.package,
        sha256=published.sha256,
        revision=published.version,
        note=published.note,
    )
    return _assemble(
        name,
        checkpoint,
        published.num_classes,
        preprocessing=zoo.entry(name).preprocessing,
        labels=imagenet_labels(published.num_classes),
        source=source,
    )


def _load_timm(
    name: str, tag: str, size: tuple[int, int] | None, num_classes: int | None
) -> ReferenceModel:
    published = hub.find(name, tag)
    _check_classes(f"timm:{published.tag}", published.num_classes, num_classes)
    fetched = hub.download(published.hub_id)
    source = WeightsSource(
        "timm", published.hub_id, sha256=fetched.sha256, revision=fetched.revision
    )
    return _assemble(
        name,
        checkpoint_file.read(fetched.path),
        published.num_classes,
        preprocessing=published.preprocessing(size),
        labels=imagenet_labels(published.num_classes),
        source=source,
    )


def _load_file(name: str, path: Path, num_classes: int | None) -> ReferenceModel:
    checkpoint = checkpoint_file.read(path, name)
    labels = _metadata_labels(checkpoint.metadata.get("classes", ""))
    labels_from = "weights"
    if not labels:
        labels, labels_from = imagenet_labels(checkpoint.num_classes or 0), "assumed"
    if len(labels) != checkpoint.num_classes:
        labels = ()
    source = WeightsSource("file", path.name, sha256=checkpoint.sha256, note=checkpoint.note)
    reference = _assemble(
        name,
        checkpoint,
        num_classes,
        preprocessing=zoo.entry(name).preprocessing,
        labels=labels,
        source=source,
    )
    return dataclasses.replace(
        reference, labels_from=labels_from if labels else "", preprocessing_from="assumed"
    )


def _metadata_labels(classes: str) -> tuple[str, ...]:
    """Class names from safetensors metadata: a JSON list, or names between commas."""
    try:
        names = load_json(classes)
    except (ValueError, RecursionError):
        meant_as_json = not classes or classes.lstrip().startswith("[")
        names = [] if meant_as_json else classes.split(",")
    return tuple(str(name).strip() for name in names) if isinstance(names, list) else ()


def _load_random(name: str, seed: str, num_classes: int | None) -> ReferenceModel:
    if seed and not (seed.isascii() and seed.isdigit() and int(seed) < 2**63):
        raise WeightsError(f"'{seed}' is not a seed; write random:0, or any whole number from 0.")
    module = zoo.build(name, num_classes=1000 if num_classes is None else num_classes)
    from mnv4_deploy.models.randomize import randomize

    randomize(module, int(seed or 0))
    source = WeightsSource("random", f"random:{int(seed or 0)}", note="untrained random weights")
    classes = num_classes or 1000
    return ReferenceModel(
        name,
        module,
        zoo.entry(name).preprocessing,
        (),
        source,
        count_parameters(module),
        classes,
        labels_from="",
        preprocessing_from="assumed",
    )


def _check_classes(what: str, own: int, asked: int | None) -> None:
    if asked is not None and asked != own:
        if asked < 1:
            raise InputError(f"The number of classes must be at least 1, not {asked}.")
        raise WeightsError(
            f"{what} has {own} classes, not {asked}; leave --num-classes out or give a checkpoint "
            f"with {asked} classes."
        )


def _assemble(
    name: str,
    checkpoint: checkpoint_file.Checkpoint,
    num_classes: int | None,
    *,
    preprocessing: Preprocessing,
    labels: tuple[str, ...],
    source: WeightsSource,
) -> ReferenceModel:
    own = checkpoint.num_classes
    if own is not None:
        _check_classes(f"'{checkpoint.path}'", own, num_classes)
    module = zoo.build(name, num_classes=own or num_classes or 1000)
    checkpoint_file.load_into(module, checkpoint, name)
    assert own is not None  # load_into insists on a classifier
    return ReferenceModel(
        name, module, preprocessing, labels, source, count_parameters(module), own
    )
