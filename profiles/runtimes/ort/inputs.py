"""Example inputs of a session of onnxruntime: of given shapes and values, or made up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv4_deploy.errors import ModelFileError, UnsupportedError
from mnv4_deploy.profiles.graph.given_inputs import shapes_with
from mnv4_deploy.profiles.graph.shapes import (
    Dim,
    Shapes,
    check_fit,
    check_names,
    default_sizes,
    given_shape,
    proposed,
    shape_option,
    written,
)
from mnv4_deploy.profiles.records.inputs import GivenInputs
from mnv4_deploy.profiles.runtimes.made_up import InputSpec, input_values, made_up_note
from mnv4_deploy.profiles.runtimes.ort.session import element_type

# Lengths that networks take: of texts, of blocks of audio, of a second of it.
_LENGTHS = (16, 128, 512, 256, 1024, 64, 1, 4096, 16000)

Feeds = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class _Open:
    """An input as the file has it."""

    name: str
    dims: tuple[Dim, ...]
    dtype: str


def example_inputs(
    session: Any, shapes: Shapes | None = None, given: GivenInputs | None = None
) -> Feeds:
    """Inputs of the shapes that :func:`~mnv4_deploy.profiles.graph.shapes.resolve_shape` finds, by
    name, with the values in ``given`` or made-up ones.

    A symbol that a given shape tells is known wherever it stands. Raises UnsupportedError for
    inputs that are no tensors of numbers and for values or shapes that do not fit, ModelFileError
    for shapes that are open, with ones that the session runs with.
    """
    specs, given = input_specs(session, shapes, given), given or {}
    return dict(zip((spec.name for spec in specs), input_values(specs, given), strict=True))


def example_notes(
    session: Any, shapes: Shapes | None = None, given: GivenInputs | None = None
) -> tuple[str, ...]:
    """What to know of :func:`example_inputs`."""
    return made_up_note(input_specs(session, shapes, given), given or {})


def input_specs(
    session: Any, shapes: Shapes | None = None, given: GivenInputs | None = None
) -> tuple[InputSpec, ...]:
    """The inputs as they are fed; raises as :func:`example_inputs`."""
    inputs = [_Open(s.name, tuple(s.shape or ()), element_type(s)) for s in session.get_inputs()]
    check_names(shapes or {}, [own.name for own in inputs])
    known = shapes_with(shapes or {}, given or {}, {own.name: len(own.dims) for own in inputs})
    for spec in session.get_inputs():
        if not _is_numeric(element_type(spec)):
            raise UnsupportedError(
                f"Input {spec.name} is a {spec.type}, which cannot be made up: give a model"
                " with numeric tensors as inputs."
            )
    sizes = _sizes(inputs, known)
    if any(None in own for own in sizes.values()):
        raise _open_shapes(session, inputs, sizes, given or {})
    return tuple(
        InputSpec(own.name, tuple(n for n in sizes[own.name] if n is not None), own.dtype)
        for own in inputs
    )


def _sizes(inputs: Sequence[_Open], known: Shapes) -> dict[str, list[int | None]]:
    """The sizes of each input, None for those that are open."""
    symbols: dict[str, int] = {}
    found: dict[str, list[int | None]] = {}
    for own in inputs:
        shape = given_shape(own.name, known, only=len(inputs) == 1)
        if shape is not None:
            check_fit(own.name, own.dims, shape)
            found[own.name] = list(shape)
            pairs = zip(own.dims, shape, strict=True)
            symbols |= {dim: size for dim, size in pairs if isinstance(dim, str)}
    for own in inputs:
        if own.name not in found:
            found[own.name] = [
                symbols.get(dim, size) if isinstance(dim, str) else size
                for dim, size in zip(own.dims, default_sizes(own.dims), strict=True)
            ]
    return found


def _is_numeric(dtype: str) -> bool:
    """Whether NumPy has these numbers; bfloat16 and sequences it has not."""
    try:
        return np.dtype(dtype).kind in "biuf"
    except TypeError:
        return False


def _open_shapes(
    session: Any,
    inputs: Sequence[_Open],
    sizes: Mapping[str, Sequence[int | None]],
    given: GivenInputs,
) -> ModelFileError:
    """The error for open shapes, with some that run."""
    open_ = [own for own in inputs if None in sizes[own.name]]
    attempts: list[Mapping[str, tuple[int, ...]]] = []
    for attempt in _attempts(inputs, sizes):
        if attempt not in attempts:
            attempts.append(attempt)
    shapes = next((shapes for shapes in attempts if _runs(session, inputs, shapes, given)), None)
    options = " ".join(shape_option(own.name, (shapes or attempts[0])[own.name]) for own in open_)
    which = " and ".join(f"{own.name} the dynamic shape {written(own.dims)}" for own in open_)
    which = which.replace(" the ", " has the ", 1)
    # Nothing that was tried: the values may be what it does not run with.
    advice = "" if shapes else ", or other sizes: none that was tried runs"
    return ModelFileError(f"Input {which}: give {options}{advice}.")


def _attempts(
    inputs: Sequence[_Open], sizes: Mapping[str, Sequence[int | None]]
) -> Iterator[Mapping[str, tuple[int, ...]]]:
    for length in _LENGTHS:
        yield {
            own.name: tuple(
                guess if size is None else size
                for guess, size in zip(proposed(own.dims, length), sizes[own.name], strict=True)
            )
            for own in inputs
        }
    # A batch in another place than the first beside a length: a state [layers, batch, units].
    for length in _LENGTHS:
        yield {
            own.name: tuple(
                (length if own is inputs[0] else 1) if size is None else size
                for size in sizes[own.name]
            )
            for own in inputs
        }


def _runs(
    session: Any,
    inputs: Sequence[_Open],
    shapes: Mapping[str, tuple[int, ...]],
    given: GivenInputs,
) -> bool:
    specs = [InputSpec(own.name, shapes[own.name], own.dtype) for own in inputs]
    try:
        arrays = input_values(specs, given)
        session.run(None, {spec.name: a for spec, a in zip(specs, arrays, strict=True)})
    except Exception:  # onnxruntime's exceptions share no base; any means that it does not run
        return False
    return True
