"""The system's adb client, with a server, keys and files of its own."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.time_limit import PATIENCE_S, wait_until


@contextlib.contextmanager
def adb_server(folder: Path) -> Iterator[str]:
    """The adb program with a private server, which ends with the context. Skips without adb."""
    program = shutil.which("adb")
    if program is None:
        pytest.skip("adb is not installed")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
        patch.setenv("ADB_LOCAL_TRANSPORT_MAX_PORT", "5554")  # looks for no emulators
        patch.setenv("ADB_VENDOR_KEYS", "")
        for name in ("HOME", "TMPDIR", "ANDROID_SDK_HOME"):
            patch.setenv(name, str(folder))
        patch.delenv("ANDROID_SERIAL", raising=False)
        try:
            subprocess.run([program, "start-server"], capture_output=True, check=True)
            yield program
        finally:
            subprocess.run([program, "kill-server"], capture_output=True, check=False)
            wait_until(lambda: not _servers(port))


def connect(program: str, serial: str) -> None:
    """Have adb's server know a device."""
    subprocess.run(
        [program, "connect", serial], capture_output=True, check=False, timeout=PATIENCE_S
    )


@contextlib.contextmanager
def connecting(program: str, serial: str, state: str) -> Iterator[None]:
    """While adb's server tries to talk with a device, from when it has one of the ``state``s on.

    ``state`` is a pattern of what ``adb devices`` says.
    """
    listed = re.compile(rf"^{re.escape(serial)}\s+({state})$", re.MULTILINE)
    attempt = subprocess.Popen([program, "connect", serial], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: listed.search(_devices(program)))
        yield
    finally:
        attempt.kill()
        attempt.wait()


def _devices(program: str) -> str:
    done = subprocess.run([program, "devices"], capture_output=True, text=True, check=True)
    return done.stdout


def disconnect(program: str) -> None:
    subprocess.run([program, "disconnect"], capture_output=True, check=False)


def command_lines() -> Iterator[tuple[int, str]]:
    """What runs on this machine."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().decode("utf-8", "replace").split("\0")
            yield int(path.parent.name), " ".join(words)


def _servers(port: int) -> list[int]:
    return [pid for pid, line in command_lines() if f"tcp:{port}" in line and "adb" in line]
