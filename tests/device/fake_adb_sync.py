"""The file service of a scripted Android device (AOSP's file_sync_protocol.h)."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Protocol


class Stream(Protocol):
    def read(self, size: int) -> bytes: ...

    def write(self, data: bytes) -> None: ...


def serve_sync(stream: Stream, here: Callable[[str], str], full: Callable[[], bool]) -> None:
    """Serve STAT, STA2, LST2, SEND and RECV until the client quits; ``here`` gives the path on
    this machine of one on the device, ``full`` whether its disk is."""
    while True:
        kind, size = struct.unpack("<4sI", stream.read(8))
        if kind == b"QUIT":
            return
        name = stream.read(size).decode("utf-8", "surrogateescape")
        if kind == b"SEND":
            path, _, mode = name.rpartition(",")
            _receive(stream, Path(here(path)), int(mode), full())
        elif kind == b"RECV":
            _send(stream, Path(here(name)))
        else:
            _status(stream, kind, Path(here(name)))


def _status(stream: Stream, kind: bytes, path: Path) -> None:
    try:
        found, error = path.stat(), 0
    except OSError as problem:
        found, error = os.stat_result([0] * 10), problem.errno or 5
    mode, size, mtime = found.st_mode, found.st_size, int(found.st_mtime)
    if kind == b"STAT":
        stream.write(struct.pack("<4s3I", kind, mode, size, mtime))
        return
    numbers = (found.st_ino, mode, 1, 0, 0, size, mtime, mtime, mtime)
    stream.write(struct.pack("<4sIQQIIIIQqqq", kind, error, 0, *numbers))


def _receive(stream: Stream, path: Path, mode: int, full: bool) -> None:
    content = b""
    while True:
        kind, size = struct.unpack("<4sI", stream.read(8))
        if kind != b"DATA":  # DONE, with the time of the file
            break
        content += stream.read(size)
    if full:
        _fail(stream, "write failed: No space left on device")
        return
    try:
        path.write_bytes(content)
        path.chmod(stat.S_IMODE(mode))
    except OSError as error:
        _fail(stream, f"couldn't create file: {error.strerror}")
        return
    stream.write(struct.pack("<4sI", b"OKAY", 0))


def _send(stream: Stream, path: Path) -> None:
    try:
        content = path.read_bytes()
    except OSError as error:
        _fail(stream, f"open failed: {error.strerror}")
        return
    for start in range(0, len(content), 64 << 10):
        part = content[start : start + (64 << 10)]
        stream.write(struct.pack("<4sI", b"DATA", len(part)) + part)
    stream.write(struct.pack("<4sI", b"DONE", 0))


def _fail(stream: Stream, problem: str) -> None:
    stream.write(struct.pack("<4sI", b"FAIL", len(problem)) + problem.encode())
