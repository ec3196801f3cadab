"""Values of inputs that a user gave: read from the command line and files, fitted to a model."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv4_deploy.errors import InputError, UnsupportedError
from mnv4_deploy.profiles.files.arrays import reading_arrays
from mnv4_deploy.profiles.files.regular import open_regular
from mnv4_deploy.profiles.records.inputs import GivenInput, GivenInputs

if TYPE_CHECKING:
    from numpy.typing import NDArray

# With room to send it to a device, whose agent reads lines of 256 MB.
_MAX_BYTES = 128 << 20
_FILES = (".npy", ".npz")
_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off")
_ADVICE = "write it with numpy.save or numpy.savez, in at most 128 MB"


def read_given(texts: Iterable[str]) -> dict[str, GivenInput]:
    """The inputs in ``texts``, each "NAME=VALUE", "NAME=file.npy", "NAME=file.npz" or "file.npz".

    VALUE is one number for all elements, or as many as there are elements, with commas between;
    true and false are numbers too. An .npz file gives every array in it by its name; behind a
    name, the array of that name or its only one. Raises UnsupportedError for a text that is none
    of these and for an input that is given twice, InputError for a file that cannot be read.
    """
    found: dict[str, GivenInput] = {}
    for text in texts:
        for name, given in _read(text):
            if name in found:
                raise UnsupportedError(f"--input gives {name} twice: give it once.")
            found[name] = given
    return found


def _read(text: str) -> Iterator[tuple[str, GivenInput]]:
    name, equals, value = text.rpartition("=")
    if Path(value).suffix.lower() not in _FILES:
        if not name or not value:
            raise UnsupportedError(
                f"--input {text} is no value: give NAME=VALUE, NAME=file.npy or file.npz."
            )
        _numbers(name, value)
        yield name, GivenInput(text=value)
        return
    arrays = _load(Path(value).expanduser())
    if not equals:
        if "" in arrays:
            raise UnsupportedError(
                f"--input {text} does not say for which input: give NAME={value}."
            )
        yield from arrays.items()
        return
    array = arrays.get(name) or (next(iter(arrays.values())) if len(arrays) == 1 else None)
    if array is None:
        held = ", ".join(map(repr, list(arrays)[:4])) or "nothing"
        raise InputError(
            f"{value} holds {held} and no {name!r}: give NAME={value} with one of it."
        )
    yield name, array


def _load(path: Path) -> dict[str, GivenInput]:
    """The arrays of a file by name, that of an .npy file as ""."""
    import numpy as np

    if not path.is_file():
        raise InputError(f"{path} does not exist: give an .npy or .npz file for --input.")
    refusal = f"{path} is no file of plain arrays, or damaged: {_ADVICE}."
    with reading_arrays(refusal), open_regular(path, max_bytes=_MAX_BYTES) as file:
        stored = np.load(file, allow_pickle=False)
        if isinstance(stored, np.lib.npyio.NpzFile):
            entries = stored.zip.infolist() if stored.zip else []
            if sum(entry.file_size for entry in entries) > _MAX_BYTES:
                raise ValueError("too large")
            arrays = {name: stored[name] for name in stored.files}
        else:
            arrays = {"": stored}
        return {name: given_array(array, path.name) for name, array in arrays.items()}


def given_array(array: NDArray[Any], source: str) -> GivenInput:
    """``array`` as a value of an input; ``source`` says where it is from."""
    import numpy as np

    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return GivenInput(array=data, shape=tuple(map(int, array.shape)), source=source)


def _numbers(name: str, text: str) -> list[int | float]:
    try:
        return [_number(part.strip()) for part in text.split(",")]
    except ValueError as error:
        raise UnsupportedError(
            f"--input {name}={text} is no number: give numbers with commas between, or an .npy or"
            " .npz file."
        ) from error


def _number(text: str) -> int | float:
    if text.lower() in (*_TRUE, *_FALSE):
        return int(text.lower() in _TRUE)
    try:
        return int(text, 0)
    except ValueError:
        return float(text)


def check_given(given: GivenInputs, names: Collection[str]) -> None:
    """Raise UnsupportedError for a value of an input that is not among ``names``."""
    unknown = set(given).difference(names)
    if unknown:
        raise UnsupportedError(
            f"The model has no input {min(unknown)} to give a value: it has {', '.join(names)}."
        )


def shapes_with(
    shapes: Mapping[str, tuple[int, ...]], given: GivenInputs, ranks: Mapping[str, int]
) -> dict[str, tuple[int, ...]]:
    """``shapes`` and those that the arrays in ``given`` have, by input.

    Several numbers are the values of an input with one dimension; ``ranks`` say which have. Raises
    UnsupportedError where a shape is asked for that a given array has not, or an input is given
    that is not among ``ranks``.
    """
    found = dict(shapes)
    check_given(given, ranks)
    for name, value in given.items():
        shape = value.shape if value.array else None
        if not value.array and ranks[name] == 1 and "," in value.text:
            shape = (value.text.count(",") + 1,)
        if shape is None:
            continue
        asked = shapes.get(name, shapes.get("") if len(ranks) == 1 else None)
        if asked is not None and asked != shape:
            raise UnsupportedError(
                f"Input {name} is given as {_written(shape)}, which --shape {_written(asked)} is"
                " not: leave out --shape."
            )
        if "" not in found:
            found[name] = shape
    return found


def fitted(name: str, given: GivenInput, shape: Sequence[int], dtype: str) -> NDArray[Any]:
    """``given`` as the array of ``shape`` and ``dtype`` that input ``name`` takes.

    Raises UnsupportedError for another type, shape or number of values, and for numbers that the
    type does not have.
    """
    import numpy as np

    if given.array:
        return _stored(name, given, shape, dtype)
    numbers = _numbers(name, given.text)
    kind = np.dtype(dtype)
    try:
        values = np.array([_as(kind, number) for number in numbers], kind)
    except (ValueError, OverflowError) as error:
        raise UnsupportedError(
            f"--input {name}={given.text} does not fit {dtype}, which the input takes: give"
            " another value."
        ) from error
    count = int(np.prod(shape, dtype=np.int64))
    if len(numbers) not in (1, count):
        raise UnsupportedError(
            f"--input {name} gives {len(numbers)} numbers, but the input has {_written(shape)}:"
            f" give 1 number or {count}."
        )
    array: NDArray[Any] = (
        values.reshape(tuple(shape))
        if len(numbers) == count
        else np.full(tuple(shape), values[0], kind)
    )
    return array


def _as(kind: Any, number: float) -> Any:
    import numpy as np

    if kind.kind == "b":
        if number not in (0, 1):
            raise ValueError(number)
        return bool(number)
    if kind.kind in "iu":
        info = np.iinfo(kind)
        if number != int(number) or not info.min <= number <= info.max:
            raise ValueError(number)
        return int(number)
    return number


def _stored(name: str, given: GivenInput, shape: Sequence[int], dtype: str) -> NDArray[Any]:
    import numpy as np

    with reading_arrays(f"The value of input {name} is damaged: {_ADVICE}."):
        data = io.BytesIO(base64.b64decode(given.array, validate=True))
        array: NDArray[Any] = np.load(data, allow_pickle=False)
    if array.dtype.name != dtype:
        raise UnsupportedError(
            f"{given.source} has {array.dtype.name} for input {name}, which takes {dtype}: save it"
            f" as {dtype}."
        )
    if array.shape != tuple(shape):
        raise UnsupportedError(
            f"{given.source} has {_written(array.shape)} for input {name}, which takes"
            f" {_written(shape)}: save an array of that shape."
        )
    return np.ascontiguousarray(array).reshape(array.shape)


def _written(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "a single number"
