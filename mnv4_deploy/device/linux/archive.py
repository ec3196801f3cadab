"""What a device runs: the profiles package as one zip archive, and the text that unpacks it."""

from __future__ import annotations

import base64
import io
import zipfile
import zlib
from collections.abc import Iterator
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

_PACKAGE = "mnv4_deploy"
_ERRORS = "errors.py"
_NOT_SENT = "__pycache__"
_MAIN = "from mnv4_deploy.profiles.agent.supervisor import main\n\nmain()\n"
_BOOTSTRAP = "agent/bootstrap.py"
# Zip archives know no time before this one; a fixed one keeps the bytes the same.
_TIME = (1980, 1, 1, 0, 0, 0)


@cache
def build_archive() -> bytes:
    """The archive, with the same bytes for the same sources."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in sorted(_members()):
            entry = zipfile.ZipInfo(name, _TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, text)
    return buffer.getvalue()


@cache
def bootstrap_code() -> str:
    """A line of Python that runs profiles/agent/bootstrap.py, for ``python3 -c``.

    It has no character that a POSIX shell, fish or csh sees anything in between single quotes.
    """
    text = (_profiles() / _BOOTSTRAP).read_bytes()
    packed = base64.b64encode(zlib.compress(text, 9)).decode("ascii")
    return f'import base64,zlib;exec(zlib.decompress(base64.b64decode("{packed}")))'


def _members() -> Iterator[tuple[str, bytes]]:
    yield "__main__.py", _MAIN.encode()
    # The package's own __init__ is the commands' Python interface, which is not sent.
    yield f"{_PACKAGE}/__init__.py", b""
    package = resources.files(_PACKAGE)
    yield f"{_PACKAGE}/{_ERRORS}", (package / _ERRORS).read_bytes()
    yield from _sources(_profiles(), f"{_PACKAGE}/profiles")


def _sources(folder: Traversable, prefix: str) -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        name = f"{prefix}/{entry.name}"
        if entry.is_dir() and entry.name != _NOT_SENT and not entry.name.startswith("."):
            yield from _sources(entry, name)
        elif entry.name.endswith(".py"):
            yield name, entry.read_bytes()


def _profiles() -> Traversable:
    return resources.files(f"{_PACKAGE}.profiles")
