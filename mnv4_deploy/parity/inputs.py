"""The inputs that both sides get."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mnv4_deploy.errors import DeployError, ImagesError, InputError, UnsupportedError
from mnv4_deploy.layers.layer import Array
from mnv4_deploy.parity.records import ParityRequest
from mnv4_deploy.profiles.graph.given_inputs import check_given, fitted
from mnv4_deploy.profiles.records.files import FileFacts
from mnv4_deploy.profiles.records.graph import ModelGraph
from mnv4_deploy.profiles.runtimes.made_up import InputSpec, input_values, made_up_note
from mnv4_deploy.tasks.classification.task import CLASSIFICATION

BUNDLED, RANDOM = "bundled", "random"
_NPZ = ".npz"
_MAX_INPUTS = 4096
_NUMBERS = "biuf"  # kinds of NumPy's types that a file can take
_SEEDS_PER_INFERENCE = 1000  # more inputs than a file has
# Reads the graph for shapes of inputs by name.
GraphOf = Callable[[Mapping[str, tuple[int, ...]]], ModelGraph]


@dataclass(frozen=True)
class Inputs:
    """``make(i)`` gives the arrays of inference i, in the order of the file's inputs.

    They are made one by one: all of them together may not fit in memory.
    """

    title: str
    count: int
    make: Callable[[int], tuple[Array, ...]]
    notes: tuple[str, ...] = ()


def open_inputs(
    request: ParityRequest,
    facts: FileFacts,
    graph_of: GraphOf,
) -> tuple[Inputs, ModelGraph]:
    """The inputs that ``request.data`` names, and the graph with the shapes they give it.

    Images go through the file's own preprocessing. Raises ImagesError for a folder without
    images, InputError for an .npz file that does not fit or is damaged, UnsupportedError for a
    number of inputs that makes no sense and for a file that takes no images but was given some.
    """
    if not 1 <= request.images <= _MAX_INPUTS:
        raise UnsupportedError(
            f"--images {request.images} makes no sense: give 1 to {_MAX_INPUTS}."
        )
    found, graph = _open(request, facts, graph_of)
    return _with_given(found, graph, request), graph


def _with_given(found: Inputs, graph: ModelGraph, request: ParityRequest) -> Inputs:
    """``found`` with the values in ``request.inputs``."""
    tensors = [graph.tensors[t] for t in graph.inputs]
    fixed = {
        place: fitted(tensor.name, request.inputs[tensor.name], tensor.shape, tensor.dtype)
        for place, tensor in enumerate(tensors)
        if tensor.name in request.inputs
    }
    check_given(request.inputs, [tensor.name for tensor in tensors])
    if not fixed:
        return found

    def make(at: int) -> tuple[Array, ...]:
        return tuple(fixed.get(place, array) for place, array in enumerate(found.make(at)))

    # Nothing differs from one inference to the next where all is given.
    count = 1 if len(fixed) == len(tensors) else found.count
    return replace(found, make=make, count=count)


def _open(
    request: ParityRequest, facts: FileFacts, graph_of: GraphOf
) -> tuple[Inputs, ModelGraph]:
    if request.data == RANDOM:
        return _random(request, graph_of(request.shapes))
    path = Path(request.data).expanduser()
    if request.data != BUNDLED and path.suffix.lower() == _NPZ:
        return _arrays(path, request, facts, graph_of)
    if request.data != BUNDLED and not path.is_dir():
        raise ImagesError(
            f"'{request.data}' is no folder of images and no .npz file: give one of those, "
            "bundled or random."
        )
    try:
        return _images(request, graph_of)
    except DeployError as error:
        # A folder was asked for; the bundled images are only the default.
        if request.data != BUNDLED or not isinstance(error, InputError):
            raise
        inputs, graph = _random(request, graph_of(request.shapes))
        note = f"The inputs are random: {request.path} takes no images that it describes."
        return replace(inputs, notes=(note, *inputs.notes)), graph


def _random(request: ParityRequest, graph: ModelGraph) -> tuple[Inputs, ModelGraph]:
    """Standard normal floats, codes of the whole range, and what the names of inputs ask for;
    other wide integers are zero."""
    tensors = [graph.tensors[t] for t in graph.inputs]
    for tensor in tensors:
        _check_type(tensor.name, tensor.dtype)
    specs = [InputSpec(tensor.name, tensor.shape, tensor.dtype) for tensor in tensors]

    def make(at: int) -> tuple[Array, ...]:
        first = (request.seed * _MAX_INPUTS + at) * _SEEDS_PER_INFERENCE
        return input_values(specs, {}, first)

    notes = made_up_note(specs, request.inputs)
    return Inputs(f"random (seed {request.seed})", request.images, make, notes), graph


def _check_type(name: str, dtype: str) -> None:
    try:
        known = np.dtype(dtype).kind in _NUMBERS
    except TypeError:
        known = False
    if not known:
        raise UnsupportedError(
            f"Input {name!r} is {dtype}, which cannot be made up or sent: give a file with "
            "numeric inputs."
        )


def _images(
    request: ParityRequest,
    graph_of: GraphOf,
) -> tuple[Inputs, ModelGraph]:
    from mnv4_deploy.drift.model_ref import open_model_ref
    from mnv4_deploy.images.sets import open_folder, spread
    from mnv4_deploy.sessions.feed import ImageFeed

    subject = open_model_ref(str(Path(request.path).absolute()))
    if request.data == BUNDLED:
        found = CLASSIFICATION.find_images(BUNDLED, "evaluation", subject)
    else:
        found = open_folder(Path(request.data).expanduser())
    refs = list(spread(found.refs, request.seed))[: request.images]
    spec = subject.preprocessing
    feed = ImageFeed(subject.inputs, spec)

    def make(at: int) -> tuple[Array, ...]:
        try:
            pixels = refs[at].pixels(spec)
        except OSError as error:
            raise ImagesError(
                f"{refs[at].path} cannot be read as an image: repair it or take it out."
            ) from error
        return feed.one(pixels)

    return Inputs(found.name, len(refs), make), graph_of(feed.shapes())


def _arrays(
    path: Path, request: ParityRequest, facts: FileFacts, graph_of: GraphOf
) -> tuple[Inputs, ModelGraph]:
    from mnv4_deploy.parity.arrays_file import open_arrays

    for fact in facts.inputs:
        _check_type(fact.name, fact.dtype)
    arrays = open_arrays(path, facts.inputs, request.images)
    shapes = {
        fact.name: array.shape
        for fact, array in zip(facts.inputs, arrays.row(0), strict=True)
        if not all(isinstance(side, int) and side >= 0 for side in fact.shape)
    }
    return Inputs(path.name, arrays.count, arrays.row), graph_of(shapes)
