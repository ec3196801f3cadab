"""Files that arrive in pieces and are kept in the private folder until the end of the session."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path, PurePosixPath
from typing import IO

from mnv4_deploy.errors import OutputError, ToolchainError
from mnv4_deploy.profiles.agent.facts import free_bytes

_KEY = re.compile(r"[0-9a-f]{64}")
# Left over for what the runtimes write themselves.
_MARGIN_BYTES = 16 << 20
_MB = 1e6


class Store:
    """One file arrives at a time: :meth:`begin`, :meth:`add` for each piece, :meth:`finish`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._problem: OSError | None = None

    def begin(self, key: str, name: str, size: int, sha256: str) -> None:
        """``key`` (64 hexadecimal digits) is the folder of files that belong together, ``name``
        the path in it. Raises OutputError where the file cannot fit, before any of it is sent."""
        inside = PurePosixPath(name)
        if not _KEY.fullmatch(key) or inside.is_absolute() or ".." in inside.parts or "\0" in name:
            raise ToolchainError("A file for the device has a name that leads out of its folder.")
        free = free_bytes(self._folder)
        if size + _MARGIN_BYTES > free:
            raise self._full(size, free)
        self._path = self._folder / "files" / key / inside
        self._size, self._sha256, self._problem = size, sha256, None
        self._digest = hashlib.sha256()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("wb")
        except OSError as error:
            raise OutputError(f"A file cannot be written on the device ({error}).") from error

    def add(self, piece: bytes) -> None:
        """Nobody waits for an answer to a piece: :meth:`finish` tells of what went wrong."""
        if self._file is None:
            return
        self._digest.update(piece)
        try:
            self._file.write(piece)
        except OSError as error:
            self._problem = self._problem or error

    def finish(self) -> Path:
        """Where the file is. Raises OutputError where the disk was full after all and
        ToolchainError for content that is not what was sent."""
        if self._file is None:
            raise ToolchainError("A file ended on the device that never began.")
        file, self._file = self._file, None
        try:
            file.close()
        except OSError as error:
            self._problem = self._problem or error
        if self._problem is None and self._digest.hexdigest() == self._sha256:
            return self._path
        self._path.unlink(missing_ok=True)
        if self._problem is not None:
            raise self._full(self._size, free_bytes(self._folder)) from self._problem
        raise ToolchainError("A file arrived damaged on the device: try again.")

    def _full(self, size: int, free: int) -> OutputError:
        return OutputError(
            f"{self._folder.parent} on the device has {free / _MB:.0f} MB free and"
            f" {(size + _MARGIN_BYTES) / _MB:.0f} MB are needed: make room, or name another folder"
            " there with --device-folder."
        )
