"""The standard streams: one line for what went wrong, and streams that are closed or full."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
from pathlib import Path

from mnv4_deploy.errors import OutputError
from mnv4_deploy.profiles.runtimes.quiet import write_to_stderr
from mnv4_deploy.text import clean

# What the main command's --log writes down; silent without it.
LOG = logging.getLogger("mnv4_deploy")
LOG.propagate = False
# What a shell says of a program that SIGPIPE ends.
NOBODY_READS = 141
_STANDARD = (0, 1, 2)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def complain(sentence: str) -> None:
    """Write one line to standard error, if anybody listens there."""
    LOG.info("%s", clean(sentence))
    with contextlib.suppress(OSError, ValueError):
        write_to_stderr(f"mnv4-deploy: {clean(sentence)}\n")


def open_standard_streams() -> None:
    """Have something behind the standard streams that were closed: the next file that is opened
    would get their numbers, and what libraries print."""
    for descriptor in _STANDARD:
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - as long as we
            setattr(sys, name, nowhere)


def finish_output() -> None:
    """Bring what was printed to where it goes.

    Raises OutputError where that is full, SystemExit where nobody reads any more. What was not
    written is dropped then: Python would try once more in the end.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        _drop_output()
        if error.errno == errno.EPIPE:
            raise SystemExit(NOBODY_READS) from None
        raise full(error) from error


def is_full(error: OSError) -> bool:
    """Whether ``error`` is of a place, no file that somebody named, that takes no more."""
    return error.filename is None and error.errno in _FULL


def full(error: OSError) -> OutputError:
    return OutputError(
        f"What comes out cannot be written ({error.strerror or error}): make room for it, or send "
        "it elsewhere."
    )


def _drop_output() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError, ValueError):  # a stream that is no file
        os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    with contextlib.suppress(OSError):
        sys.stdout.flush()
