"""Pages opened in a real browser."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


def browse(page: Path, folder: Path) -> str:
    """The document that a browser makes of ``page``; its console must stay empty.

    ``folder`` is where the browser keeps its own files.
    """
    done = subprocess.run(
        [
            *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--disable-quic", f"--user-data-dir={folder / 'browser'}"),
            *("--enable-logging=stderr", "--v=0", "--virtual-time-budget=3000"),
            *("--window-size=1280,2000", "--dump-dom", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout
