"""Keep converters, which print freely and from native code, off our stdout and stderr."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, TextIO

from mnv4_deploy.errors import InputError

_LOG_TAIL_BYTES = 4000
# What the user or the disk did: a converter's output has nothing to add.
_SPEAK_FOR_THEMSELVES = (KeyboardInterrupt, SystemExit, OSError, MemoryError, InputError)


@dataclass
class _Redirection:
    """File descriptors belong to the process, so all threads share one redirection."""

    log: BinaryIO
    text: TextIO
    saved: tuple[int, int]
    streams: tuple[TextIO, TextIO]
    users: int = 0


_lock = threading.Lock()
_current: _Redirection | None = None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Send file descriptors 1 and 2 to a scratch file; on an exception its tail goes to stderr.

    May be nested and used from several threads: the last one to leave restores.
    """
    redirection = _enter()
    show_log = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except _SPEAK_FOR_THEMSELVES:
        raise
    except BaseException:
        show_log = True
        raise
    finally:
        _leave(redirection, show_log=show_log)


def write_to_stdout(text: str) -> None:
    """As :func:`write_to_stderr`."""
    _write(0, text)


def write_to_stderr(text: str) -> None:
    """Write to the standard error of the user, also while another thread keeps converters off it.

    Raises OSError or ValueError where it takes no more.
    """
    _write(1, text)


def _write(place: int, text: str) -> None:
    with _lock:
        stream = (sys.stdout, sys.stderr)[place] if _current is None else _current.streams[place]
        if _current is not None and _is_descriptor(stream, place + 1):
            os.write(_current.saved[place], text.encode("utf-8", "replace"))
            return
        stream.write(text)
        stream.flush()


def _is_descriptor(stream: TextIO, number: int) -> bool:
    try:
        return stream.fileno() == number
    except (OSError, ValueError):  # in a notebook
        return False


def _enter() -> _Redirection:
    global _current  # noqa: PLW0603 - the state is the process's, not an object's
    with _lock:
        if _current is None:
            sys.stdout.flush()
            sys.stderr.flush()
            log = tempfile.TemporaryFile()  # noqa: SIM115 - outlives this function
            text = os.fdopen(os.dup(log.fileno()), "w", errors="replace")
            _current = _Redirection(log, text, (os.dup(1), os.dup(2)), (sys.stdout, sys.stderr))
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            # In a notebook, Python's streams are not the descriptors.
            sys.stdout = sys.stderr = text
        _current.users += 1
        return _current


def _leave(redirection: _Redirection, *, show_log: bool) -> None:
    global _current  # noqa: PLW0603
    with _lock:
        redirection.users -= 1
        tail = b""
        redirection.text.flush()
        if show_log:
            size = redirection.log.seek(0, os.SEEK_END)
            redirection.log.seek(max(0, size - _LOG_TAIL_BYTES))
            tail = redirection.log.read()
        if redirection.users == 0:
            sys.stdout, sys.stderr = redirection.streams
            redirection.text.close()
            for descriptor, saved in zip((1, 2), redirection.saved, strict=True):
                os.dup2(saved, descriptor)
                os.close(saved)
            redirection.log.close()
            _current = None
        if tail:
            os.write(2 if _current is None else redirection.saved[1], tail)
