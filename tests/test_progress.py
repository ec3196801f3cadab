"""What a command shows while it works."""

from __future__ import annotations

import os
import pty
import sys

import pytest

from mnv4_deploy.progress import Progress


def test_what_libraries_say_goes_where_it_would_go_anyway(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal rich takes the standard streams, past whoever keeps libraries quiet."""
    theirs, ours = pty.openpty()
    monkeypatch.setattr("mnv4_deploy.progress.os.dup", lambda _: ours)
    streams = sys.stdout, sys.stderr
    progress = Progress(show=True)
    with progress.stage("Look"):
        assert (sys.stdout, sys.stderr) == streams
    with progress.images(3) as advance:
        advance(1)
        assert (sys.stdout, sys.stderr) == streams
    assert b"Look" in os.read(theirs, 1 << 16)
    os.close(theirs)
