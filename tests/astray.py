"""Files that are none, or lie elsewhere, in the place of one that is to be read."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

SECRET = b"the secret of another folder, and not a word of it leaves this machine" * 16
HUGE_BYTES = 1 << 40


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _fifo_behind_a_link(path: Path) -> None:
    pipe = path.with_name("pipe")
    os.mkfifo(pipe)
    path.symlink_to(pipe.name)


def _endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _folder(path: Path) -> None:
    path.mkdir()


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        folder = os.open(path.parent, os.O_PATH)  # a socket's path may have 107 characters
        try:
            listener.bind(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.close(folder)


def _huge(path: Path) -> None:
    """No disk is needed for it: it is one hole."""
    path.touch()
    os.truncate(path, HUGE_BYTES)


def _missing(path: Path) -> None:
    del path


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def _circle(path: Path) -> None:
    path.symlink_to(path.name)


def secret_outside(path: Path) -> Path:
    """A file with :data:`SECRET` in a folder beside that of ``path``."""
    folder = path.parent.parent / f"{path.parent.name}-outside"
    folder.mkdir(exist_ok=True)
    secret = folder / path.name
    secret.write_bytes(SECRET)
    return secret


def _link_out(path: Path) -> None:
    path.symlink_to(secret_outside(path))


def _relative_link_out(path: Path) -> None:
    secret = secret_outside(path)
    path.symlink_to(Path(os.pardir, secret.parent.name, secret.name))


def _link_to_a_link_out(path: Path) -> None:
    path.with_name("hop").symlink_to(secret_outside(path))
    path.symlink_to("hop")


# Each puts something in the place of ``path``, whose folder is there.
Put = Callable[[Path], None]
NO_FILES: dict[str, Put] = {
    "a FIFO": _fifo,
    "a link to a FIFO": _fifo_behind_a_link,
    "a link to /dev/zero": _endless,
    "a folder": _folder,
    "a socket": _socket,
}
GONE: dict[str, Put] = {
    "nothing": _missing,
    "a link to nothing": _dangling,
    "a link to itself": _circle,
}
TOO_LARGE: dict[str, Put] = {"a terabyte": _huge}
OUTSIDE: dict[str, Put] = {
    "a link out": _link_out,
    "a relative link out": _relative_link_out,
    "a link to a link out": _link_to_a_link_out,
}
EVERYTHING = NO_FILES | GONE | TOO_LARGE | OUTSIDE
