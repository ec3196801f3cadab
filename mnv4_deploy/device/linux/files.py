"""The files that a model consists of, as they go to a device."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mnv4_deploy.errors import ModelFileError, missing_library
from mnv4_deploy.profiles.files import regular as regular_file
from mnv4_deploy.profiles.files.regular import open_regular
from mnv4_deploy.profiles.graph.format import format_of
from mnv4_deploy.profiles.graph.onnx.external_weights import (
    check_weights,
    external_files,
    open_weights,
    sent_name,
)
from mnv4_deploy.profiles.graph.onnx.model import load_onnx

PIECE_BYTES = 4 << 20


@dataclass(frozen=True)
class SentFile:
    """``name`` is the path on the device in the folder of the files that belong together.

    ``location``: the file is not ``path`` itself but weights that it keeps there, by its words.
    """

    path: Path
    name: str
    size_bytes: int
    sha256: str
    location: str = ""

    @property
    def source(self) -> Path:
        return self.path.parent / self.location if self.location else self.path

    def open(self) -> BinaryIO:
        """Raises ModelFileError where it cannot be read."""
        if self.location:
            return open_weights(self.path, self.location)
        try:
            return open_regular(self.path)
        except OSError as error:
            raise _unreadable(self.path, error) from error


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
    missing, cannot be read or are too large, and for weights that are no regular files in the
    model's folder, MissingLibraryError where the onnx package is missing.
    """
    kind = format_of(path)
    locations: dict[str, str] = {}
    if kind == "onnx":
        model = _parsed(path)
        check_weights(path, model)
        locations = {sent_name(location): location for location in external_files(model)}
    name = f"model.{kind}"
    while name in locations:
        name = f"_{name}"
    files = [_sent(path, as_, location) for as_, location in locations.items()]
    files.append(_sent(path, name))
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.sha256} {file.name}\n".encode())
    return SentModel(tuple(files), digest.hexdigest())


def pieces(file: SentFile) -> Iterator[bytes]:
    """The content of ``file``, a few MB at a time.

    Raises ModelFileError where it cannot be read, and, at the latest behind the last piece, where
    it is no longer what was hashed.
    """
    digest = hashlib.sha256()
    try:
        with file.open() as stream:
            if os.fstat(stream.fileno()).st_size != file.size_bytes:
                raise _changed(file.source)
            for piece in regular_file.pieces(stream, PIECE_BYTES):
                digest.update(piece)
                yield piece
    except OSError as error:
        raise _unreadable(file.source, error) from error
    if digest.hexdigest() != file.sha256:
        raise _changed(file.source)


def _sent(path: Path, name: str, location: str = "") -> SentFile:
    opened = SentFile(path, name, 0, "", location)
    digest = hashlib.sha256()
    try:
        with opened.open() as stream:
            size = os.fstat(stream.fileno()).st_size
            for piece in regular_file.pieces(stream):
                digest.update(piece)
    except OSError as error:
        raise _unreadable(opened.source, error) from error
    return SentFile(path, name, size, digest.hexdigest(), location)


def _parsed(path: Path) -> Any:
    try:
        import onnx
    except ImportError as error:
        raise missing_library("Sending an .onnx file needs onnx", "onnx") from error
    return load_onnx(onnx, path)


def _unreadable(path: Path, error: OSError) -> ModelFileError:
    return ModelFileError(f"{path} cannot be read ({error.strerror or error}).")


def _changed(path: Path) -> ModelFileError:
    return ModelFileError(f"{path} changed while it was sent: run again when it is left alone.")
