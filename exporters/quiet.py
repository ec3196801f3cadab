"""Keep converters, which print freely and from native code, off our stdout and stderr."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Send file descriptors 1 and 2 to a scratch file; on an exception its tail goes to stderr.

    Not for use from several threads at once: file descriptors belong to the process.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with tempfile.TemporaryFile() as log:
        try:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except BaseException:
            _restore(saved)
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - 4000))
            sys.stderr.write(log.read().decode(errors="replace"))
            raise
        else:
            _restore(saved)
        finally:
            for descriptor in saved:
                os.close(descriptor)


def _restore(saved: tuple[int, int]) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(saved[0], 1)
    os.dup2(saved[1], 2)
