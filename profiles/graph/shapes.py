"""The shape an input is fed with: what the file says, filled in by what the user gave."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mnv4_deploy.errors import ModelFileError, UnsupportedError

Shapes = Mapping[str, tuple[int, ...]]

ONLY_INPUT = ""
_EXAMPLE_SIZES = (1, 3, 224, 224)


def resolve_shape(
    name: str, dims: Sequence[int | str | None], shapes: Shapes, *, only: bool
) -> tuple[int, ...]:
    """The shape of input ``name``, every dimension positive.

    ``dims`` are the file's own: a positive number is fixed, anything else (a symbol, None, -1,
    0) is dynamic. ``shapes`` hold the shapes given, by input name; the key "" stands for the
    input of a file that has just one (``only``). A dynamic first dimension is the batch and
    becomes 1 where nothing was given. Raises ModelFileError for any other dynamic dimension
    without a given shape, UnsupportedError for a given shape that does not fit the file.
    """
    given = shapes.get(name)
    if given is None and only:
        given = shapes.get(ONLY_INPUT)
    fixed = [d if isinstance(d, int) and d > 0 else None for d in dims]
    written = "[" + ", ".join(_written(d) for d in dims) + "]"
    if given is None:
        sizes = [1 if i == 0 and d is None else d for i, d in enumerate(fixed)]
        if None in sizes:
            raise ModelFileError(
                f"Input {name} has the dynamic shape {written}: give"
                f" --shape {name}={_example(sizes)}."
            )
        return tuple(d for d in sizes if d is not None)
    asked = "x".join(map(str, given))
    if len(given) != len(dims):
        raise UnsupportedError(
            f"Shape {asked} has {len(given)} dimensions but input {name} has {len(dims)}"
            f" {written}: give one number for each."
        )
    if any(size < 1 for size in given):
        raise UnsupportedError(f"Shape {asked} of input {name} has a size below 1.")
    for at, (size, dim) in enumerate(zip(given, fixed, strict=True)):
        if dim is not None and size != dim:
            raise UnsupportedError(
                f"Shape {asked} does not fit input {name} {written}: dimension {at} is fixed at"
                f" {dim}."
            )
    return tuple(given)


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


def _written(dim: int | str | None) -> str:
    return "?" if dim is None or dim == "" else str(dim)


def _example(sizes: Sequence[int | None]) -> str:
    """``sizes`` with the dynamic ones filled in, as the command line takes them."""
    usual = _EXAMPLE_SIZES if len(sizes) == len(_EXAMPLE_SIZES) else (1,) * len(sizes)
    return "x".join(str(d or u) for d, u in zip(sizes, usual, strict=True))
