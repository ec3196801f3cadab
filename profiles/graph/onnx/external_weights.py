"""Weights that an .onnx file keeps in other files beside it.

Their names come with the file, from anybody: one must not make us read, let alone send to a
device, what lies elsewhere, nor wait for a FIFO or read a device without end. onnx and onnxruntime
see to part of that themselves, each version to another.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any, BinaryIO

from mnv4_deploy.errors import ModelFileError
from mnv4_deploy.profiles.files.regular import MAX_BYTES, open_inside
from mnv4_deploy.profiles.graph.onnx.checks import DamagedError, check_tensor

_SHOWN = 200
_ADVICE = "save the model with its weights beside it as ordinary files."


def external_files(model: Any) -> tuple[str, ...]:
    """Where ``model`` (an ``onnx.ModelProto``) keeps weights outside its file, as it says."""
    found: set[str] = set()
    for tensor in _external(model):
        # A key that is there twice is for the reader to choose from.
        own = {entry.value for entry in tensor.external_data if entry.key == "location"}
        found |= own or {""}
    return tuple(sorted(found))


def sent_name(location: str) -> str:
    """``location`` without what says nothing ("./w.bin")."""
    return PurePath(location).as_posix()


def open_weights(path: Path, location: str) -> BinaryIO:
    """The weights ``location`` of the model ``path``, for reading.

    The folder is that in which ``path`` lies as it was given, as onnx and onnxruntime take it,
    also where ``path`` is a link to a model elsewhere. Raises ModelFileError for weights that are
    missing, no regular file or outside of the folder, by whatever links.
    """
    try:
        return open_inside(path.absolute().parent, location)
    except OSError as error:
        raise _refused(path, location, error) from error


def check_weights(path: Path, model: Any) -> None:
    """Raise ModelFileError where the weights of ``model``, which was read from ``path``, cannot be
    opened (:func:`open_weights`), or are too many bytes together. None of them is read."""
    try:
        total = path.stat().st_size
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read ({error.strerror or error}).") from error
    for location in external_files(model):
        with open_weights(path, location) as file:
            total += os.fstat(file.fileno()).st_size
    if total > MAX_BYTES:
        raise ModelFileError(
            f"{path} has {total / 1e9:.1f} GB with its weights, of at most {MAX_BYTES / 1e9:.1f}:"
            " give a smaller model."
        )


def load_weights(path: Path, model: Any) -> None:
    """Put the weights that ``path`` keeps elsewhere into ``model``, which was read from it.

    Raises as :func:`check_weights`, and ModelFileError for files that are too short.
    """
    check_weights(path, model)
    for tensor in list(_external(model)):
        load_tensor(path, tensor)


def load_tensor(path: Path, tensor: Any) -> None:
    """Put its data into ``tensor`` (an ``onnx.TensorProto``), where ``path`` keeps it elsewhere.

    Raises ModelFileError for a file that cannot be opened or is too short.
    """
    if tensor.data_location != tensor.EXTERNAL:
        return
    facts = {entry.key: entry.value for entry in tensor.external_data}
    location = facts.get("location", "")
    with open_weights(path, location) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            offset = int(facts.get("offset", 0))
            length = int(facts.get("length", size - offset))
            if not 0 <= offset <= offset + length <= size:
                raise ValueError("not within the file")
            file.seek(offset)
            tensor.raw_data = file.read(length)
        except (OSError, ValueError) as error:
            raise ModelFileError(
                f"{path} asks for weights that {location[:_SHOWN]!r} does not hold: {_ADVICE}"
            ) from error
    tensor.data_location = tensor.DEFAULT
    del tensor.external_data[:]
    try:
        check_tensor(tensor)
    except DamagedError as error:
        raise ModelFileError(f"{path} {error}.") from error


def _refused(path: Path, location: str, error: OSError) -> ModelFileError:
    advice = _ADVICE
    if error.errno == errno.EFBIG:
        advice = "give a smaller model."
    elif error.errno == errno.ENOENT:
        advice = (
            f"put that file into {path.absolute().parent}, or save the model with its weights."
        )
    return ModelFileError(
        f"{path} keeps weights in {location[:_SHOWN]!r} beside it, which cannot be read"
        f" ({error.strerror or error}): {advice}"
    )


def _external(model: Any) -> Iterator[Any]:
    return (tensor for tensor in _tensors(model) if tensor.data_location == tensor.EXTERNAL)


def _tensors(message: Any) -> Iterator[Any]:
    """All tensors in a protobuf message, however deep: initializers, also sparse ones, and values
    of attributes, in graphs inside graphs and in functions too."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for part in (value,) if hasattr(value, "ListFields") else value:
            if field.message_type.name == "TensorProto":
                yield part
            else:
                yield from _tensors(part)
