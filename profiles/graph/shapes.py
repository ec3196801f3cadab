"""The shape an input is fed with: what the file says, filled in by what the user gave."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from mnv4_deploy.errors import ModelFileError, UnsupportedError

Shapes = Mapping[str, tuple[int, ...]]
Dim = int | str | None

ONLY_INPUT = ""
_SIDE, _MAX_CHANNELS = 224, 4
# Of symbols whose names tell, as exporters write them.
_BATCH = re.compile(r"batch|^n$|^bs$", re.IGNORECASE)
_CHANNELS = re.compile(r"channel|^c$", re.IGNORECASE)
_IMAGE_SIDE = re.compile(r"height|width|^h$|^w$", re.IGNORECASE)
_PAST = re.compile(r"past", re.IGNORECASE)


def resolve_shape(
    name: str, dims: Sequence[Dim], shapes: Shapes, *, only: bool
) -> tuple[int, ...]:
    """The shape of input ``name``.

    ``dims`` are the file's own: a number from 0 on is fixed, anything else (a symbol, None, -1)
    is dynamic. ``shapes`` hold the shapes given, by input name; the key "" stands for the input
    of a file that has just one (``only``). A dynamic first dimension is the batch and becomes 1
    where nothing was given. Raises ModelFileError for any other dynamic dimension without a given
    shape, UnsupportedError for a given shape that does not fit the file.
    """
    given = given_shape(name, shapes, only=only)
    if given is None:
        sizes = default_sizes(dims)
        if None in sizes:
            raise ModelFileError(
                f"Input {name} has the dynamic shape {written(dims)}: give"
                f" --shape {name}={_by_x(proposed(dims))}."
            )
        return tuple(d for d in sizes if d is not None)
    check_fit(name, dims, given)
    return tuple(given)


def given_shape(name: str, shapes: Shapes, *, only: bool) -> tuple[int, ...] | None:
    """What ``shapes`` say of input ``name``; arguments as in :func:`resolve_shape`."""
    given = shapes.get(name)
    return shapes.get(ONLY_INPUT) if given is None and only else given


def default_sizes(dims: Sequence[Dim]) -> list[int | None]:
    """``dims`` as they are fed where nothing is given, None for those that cannot be known."""
    return [1 if i == 0 and size is None else size for i, size in enumerate(map(_fixed, dims))]


def check_fit(name: str, dims: Sequence[Dim], given: Sequence[int]) -> None:
    """Raise UnsupportedError where the shape ``given`` is not one that input ``name`` takes."""
    asked = _by_x(given)
    if len(given) != len(dims):
        raise UnsupportedError(
            f"Shape {asked} has {len(given)} dimensions but input {name} has {len(dims)}"
            f" {written(dims)}: give one number for each."
        )
    for at, (size, dim) in enumerate(zip(given, map(_fixed, dims), strict=True)):
        if dim is not None and size != dim:
            raise UnsupportedError(
                f"Shape {asked} does not fit input {name} {written(dims)}: dimension {at} is fixed"
                f" at {dim}."
            )


def check_names(shapes: Shapes, names: Iterable[str]) -> None:
    """Raise UnsupportedError where a shape was given for an input that is not there."""
    known = list(names)
    for name in shapes:
        if name == ONLY_INPUT and len(known) != 1:
            raise UnsupportedError(
                f"The model has {len(known)} inputs ({', '.join(known)}): say which one the shape"
                " is for, as in --shape name=1x3x224x224."
            )
        if name != ONLY_INPUT and name not in known:
            raise UnsupportedError(
                f"The model has no input {name} to give a shape: it has {', '.join(known)}."
            )


def written(dims: Sequence[Dim]) -> str:
    """ "[n, 3, ?]", for messages."""
    return "[" + ", ".join("?" if d is None or d == "" else str(d) for d in dims) + "]"


def shape_option(name: str, shape: Sequence[int]) -> str:
    """``shape`` as the command line takes it."""
    return f"--shape {name}={_by_x(shape)}"


def proposed(dims: Sequence[Dim], length: int = 1) -> tuple[int, ...]:
    """``dims`` with the open ones filled in: what is most likely to run.

    Four dimensions are an image, unless their names tell otherwise: with channels last where the
    last is fixed at few, where the two before it are fixed, or in TFLite, which writes -1 for an
    open dimension. ``length`` is for dimensions that nothing is known of.
    """
    image = _image(dims) if len(dims) == 4 else (None,) * len(dims)
    return tuple(
        size if size is not None else _guess(at, dim, usual, length)
        for at, (dim, size, usual) in enumerate(zip(dims, map(_fixed, dims), image, strict=True))
    )


def _guess(at: int, dim: Dim, usual: int | None, length: int) -> int:
    symbol = dim if isinstance(dim, str) else ""
    if _PAST.search(symbol):
        return 0
    if _BATCH.search(symbol):
        return 1
    if _IMAGE_SIDE.search(symbol):
        return _SIDE
    if _CHANNELS.search(symbol):
        return 3
    if usual is not None:
        return usual
    return 1 if at == 0 else length


def _image(dims: Sequence[Dim]) -> tuple[int | None, ...]:
    second, third, last = map(_fixed, dims[1:])
    few = range(1, _MAX_CHANNELS + 1)
    if last in few or -1 in dims:
        channels_last = second not in few
    elif second is None and last is None:
        channels_last = False
    else:  # both sides of an image, where channels first has the channels and one side
        channels_last = second not in few and third is not None and last is None
    sides = (second, third) if channels_last else (third, last)
    side = next((size for size in sides if size), _SIDE)
    return (1, side, side, 3) if channels_last else (1, 3, side, side)


def _fixed(dim: Dim) -> int | None:
    return dim if isinstance(dim, int) and dim >= 0 else None


def _by_x(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
