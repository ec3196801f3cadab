"""Files that a user or a model names, opened so that nothing hangs and nothing leads astray.

A FIFO waits for somebody to write to it, and a device may never end: only regular files are read,
and of those no more than they had when they were opened. What is checked is the open descriptor,
for a name may mean another file a moment later.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

# No child that loads a model gets more memory (profiles/isolated.py), so no more can be of use.
MAX_BYTES = 16 << 30
_PIECE_BYTES = 1 << 20
# Without waiting for a writer. Windows has neither this nor links that need care.
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0)


def open_regular(path: str | Path, *, max_bytes: int = MAX_BYTES) -> BinaryIO:
    """``path``, links followed, for reading.

    Raises OSError for what is no regular file, has more than ``max_bytes`` or cannot be read.
    """
    try:
        # Before it is opened, too: with some devices that alone does something.
        _check(Path(path).stat(), max_bytes)
        return _opened(os.open(path, _READ), max_bytes)
    except ValueError as error:  # a NUL in the name
        raise OSError(errno.EINVAL, str(error)) from error


def open_inside(folder: Path, location: str, *, max_bytes: int = MAX_BYTES) -> BinaryIO:
    """The file that ``location`` names below ``folder``, for reading.

    Links, also those of folders on the way, may lead anywhere in ``folder`` but not out of it.
    Raises OSError as :func:`open_regular`, and for what leads out.
    """
    if "\0" in location:
        raise OSError(errno.EINVAL, "its name has a NUL in it")
    named = Path(location)
    if named.is_absolute() or ".." in named.parts or not named.parts:
        raise _outside()
    try:
        root = folder.resolve(strict=True)
        inside = (root / named).resolve(strict=True).relative_to(root)
    except RuntimeError as error:  # links in a circle, before Python 3.13
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from error
    except ValueError as error:
        raise _outside() from error
    _check((root / inside).lstat(), max_bytes)
    return _opened(_open_below(root, inside.parts), max_bytes)


def pieces(file: BinaryIO, piece_bytes: int = _PIECE_BYTES) -> Iterator[bytes]:
    """The bytes that ``file`` has now, from its beginning; OSError where there are more or fewer
    of them in the end."""
    left = os.fstat(file.fileno()).st_size
    file.seek(0)
    while left:
        piece = file.read(min(piece_bytes, left))
        if not piece:
            raise _changed()
        left -= len(piece)
        yield piece
    if file.read(1):
        raise _changed()


def read_regular(path: str | Path, *, max_bytes: int) -> bytes:
    """The content of ``path``; raises as :func:`open_regular` and :func:`pieces`."""
    with open_regular(path, max_bytes=max_bytes) as file:
        return b"".join(pieces(file))


def _open_below(root: Path, parts: tuple[str, ...]) -> int:
    """Step by step and without a link: nobody can put one in the way after it was resolved."""
    if os.open not in os.supports_dir_fd:
        return os.open(root.joinpath(*parts), _READ | _NO_LINK)
    held = os.open(root, _FOLDER)
    try:
        for part in parts[:-1]:
            inner = os.open(part, _FOLDER | _NO_LINK, dir_fd=held)
            os.close(held)
            held = inner
        return os.open(parts[-1], _READ | _NO_LINK, dir_fd=held)
    finally:
        os.close(held)


def _opened(descriptor: int, max_bytes: int) -> BinaryIO:
    try:
        _check(os.fstat(descriptor), max_bytes)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _check(facts: os.stat_result, max_bytes: int) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    if facts.st_size > max_bytes:
        raise OSError(
            errno.EFBIG,
            f"it has {facts.st_size / 1e6:.0f} MB, of at most {max_bytes / 1e6:.0f}",
        )


def _outside() -> OSError:
    return OSError(errno.EXDEV, "it leads outside its folder")


def _changed() -> OSError:
    return OSError(errno.EIO, "it changed while it was read")
