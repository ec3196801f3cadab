"""What waits for ever must fail a test, not stop all of them; what is only slow must not."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator

# Only what would never end takes so long, on a machine that is busy with twenty other things too.
PATIENCE_S = 300


@contextlib.contextmanager
def in_time(seconds: int = PATIENCE_S) -> Iterator[None]:
    """Fails what is not done by then. In the main thread alone."""

    def late(*_: object) -> None:
        raise AssertionError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def wait_until(condition: Callable[[], object]) -> None:
    """Return as soon as ``condition`` comes true; fails where it does not."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"not true after {PATIENCE_S} s"
        time.sleep(0.02)
