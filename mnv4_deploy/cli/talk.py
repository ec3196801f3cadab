"""What a command says while it works: the options -q, -v and --log of the main command."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mnv4_deploy.errors import OutputError
from mnv4_deploy.streams import LOG

if TYPE_CHECKING:
    from mnv4_deploy.progress import Progress


@dataclass
class Talk:
    """``quiet``: neither progress nor notes. ``verbose``: stages also off a terminal, tracebacks
    of errors. What is logged goes to ``log``. ``as_json``: the project asks for --json."""

    quiet: bool = False
    verbose: bool = False
    log: logging.Handler | None = None
    as_json: bool = False

    def log_to(self, path: Path) -> None:
        """Append what is logged from now on to ``path``. Raises OutputError."""
        try:
            self.log = logging.FileHandler(path, encoding="utf-8", errors="replace")
        except OSError as error:
            raise OutputError(
                f"--log {path} cannot be written ({error.strerror or error}): give another file."
            ) from error
        self.log.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        LOG.addHandler(self.log)
        LOG.setLevel(logging.INFO)

    def trace(self) -> None:
        """Where the exception at hand came from, for whoever asked."""
        LOG.info("traceback", exc_info=True)
        if self.verbose:
            sys.stderr.write(traceback.format_exc())


_TALK: ContextVar[Talk] = ContextVar("talk")


@contextmanager
def talking() -> Iterator[Talk]:
    """What holds for one command; its log is closed in the end."""
    talk = Talk()
    token = _TALK.set(talk)
    try:
        yield talk
    finally:
        _TALK.reset(token)
        if talk.log is not None:
            LOG.removeHandler(talk.log)
            LOG.setLevel(logging.NOTSET)
            talk.log.close()


def current() -> Talk:
    return _TALK.get(Talk())


def progress() -> Progress:
    """The progress of the command that runs, as loud as its options say."""
    from mnv4_deploy.progress import Progress

    talk = current()
    shown = False if talk.quiet else True if talk.verbose else None
    return Progress(show=shown, notes=not talk.quiet)
