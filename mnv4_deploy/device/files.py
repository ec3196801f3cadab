"""The files that a model consists of, as they go to a device."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mnv4_deploy.errors import ModelFileError, ToolchainError
from mnv4_deploy.profiles.inspect import sha256_of
from mnv4_deploy.profiles.measure.runners import format_of

PIECE_BYTES = 4 << 20


@dataclass(frozen=True)
class SentFile:
    """``name`` is the path on the device in the folder of the files that belong together."""

    path: Path
    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class SentModel:
    """A model's files, the one that a runtime loads last. ``key`` is 64 hexadecimal digits that
    stand for the content of all of them."""

    files: tuple[SentFile, ...]
    key: str


def model_files(path: Path) -> SentModel:
    """The file ``path`` and, for .onnx, the weights it keeps in other files.

    The model gets a name of ours, which has no meaning to anything over there; weights keep the
    relative names by which the model knows them. Raises ModelFileError for files that are
    missing or cannot be read, and for weights outside the model's folder, ToolchainError where the
    onnx package is missing.
    """
    kind = format_of(path)
    locations = _external_files(path) if kind == "onnx" else []
    name = f"model.{kind}"
    while name in locations:
        name = f"_{name}"
    files = [_sent(_inside(path, location), location) for location in locations]
    files.append(_sent(path, name))
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.sha256} {file.name}\n".encode())
    return SentModel(tuple(files), digest.hexdigest())


def pieces(path: Path) -> Iterator[bytes]:
    """The content of a file, a few MB at a time; ModelFileError where it cannot be read."""
    try:
        with path.open("rb") as stream:
            while piece := stream.read(PIECE_BYTES):
                yield piece
    except OSError as error:
        raise _unreadable(path, error) from error


def _sent(path: Path, name: str) -> SentFile:
    try:
        return SentFile(path, name, path.stat().st_size, sha256_of(path))
    except OSError as error:
        raise _unreadable(path, error) from error


def _external_files(path: Path) -> list[str]:
    try:
        import onnx
    except ImportError as error:
        raise ToolchainError(
            "Sending an .onnx file needs onnx: run pip install 'mnv4-deploy[onnx]'."
        ) from error
    from mnv4_deploy.profiles.join.renamed import external_files

    try:
        model = onnx.load(str(path), load_external_data=False)
        return sorted(external_files(onnx, model))
    except Exception as error:  # protobuf's and onnx's exceptions share no base
        raise ModelFileError(
            f"{path} is not a whole ONNX model: give a complete .onnx file."
        ) from error


def _inside(path: Path, location: str) -> Path:
    """The file of weights ``location`` beside the model; it must not lead anywhere else."""
    inside = os.path.normpath(location)
    if Path(inside).is_absolute() or inside.startswith(os.pardir) or inside != location:
        raise ModelFileError(
            f"{path} keeps weights in {location!r}, outside its folder: save it with its weights"
            " beside it."
        )
    return path.parent / inside


def _unreadable(path: Path, error: OSError) -> ModelFileError:
    return ModelFileError(f"{path} cannot be read ({error.strerror or error}).")
