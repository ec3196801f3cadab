# ruff: noqa: UP032
"""The first program on a device, given as text to ``python3 -c``.

It must compile on any Python from 3.5 on, to say in plain words that it is too old, and imports
nothing but the standard library. It reads the start message and the archive behind it from
standard input, byte for byte no more than that, writes the archive to a private folder and
becomes the agent.
"""

import errno
import json
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Sequence  # noqa: UP035 - collections.abc's takes no [] before 3.9

# The first line of ours: what a login shell prints comes before it.
MAGIC = b"mnv4-deploy agent 1\n"
OLDEST = (3, 10)
PREFIX = "mnv4-deploy-"
ARCHIVE = "agent.pyz"
# In each folder that we make and may not live to remove: see profiles/files/own.py.
OWNER = "owner.json"
TOOL = "mnv4-deploy"


def main() -> int:
    os.write(1, b"\n" + MAGIC)
    problem = too_old(sys.version_info[:2])
    if problem:
        return refuse("UnsupportedError", problem)
    head = json.loads(read_line())
    archive = read_exactly(head["bytes"])
    body = head["body"]
    try:
        folder = make_folder(body["folder"], archive)
    except OSError as error:
        return refuse("OutputError", no_folder(body["folder"], error))
    python = choose_python(body["private"])
    arguments = [python, str(Path(folder, ARCHIVE)), folder, json.dumps(body)]
    try:
        os.execv(python, arguments)
    except OSError as error:
        shutil.rmtree(folder, True)
        return refuse("ToolchainError", "{} cannot be started ({}).".format(python, error))


def too_old(version: Sequence[int]) -> str:
    """What is wrong with a Python of ``version`` (major, minor); "" for nothing."""
    if tuple(version) >= OLDEST:
        return ""
    return (
        "Python {}.{} or newer is needed on the device, and {} is {}.{}: name another with"
        " --device-python."
    ).format(OLDEST[0], OLDEST[1], sys.executable or "this", version[0], version[1])


def read_line() -> str:
    """The bytes up to the next line feed; whoever reads on finds the rest untouched."""
    line = b""
    while not line.endswith(b"\n"):
        line += read_exactly(1)
    return line.decode("utf-8")


def read_exactly(size: int) -> bytes:
    parts = []
    while size:
        part = os.read(0, min(size, 1 << 20))
        if not part:
            sys.exit("mnv4-deploy: the connection ended before the agent was there")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def make_folder(parent: str, archive: bytes) -> str:
    """A folder that only this user can enter, with the archive and its owner's mark in it."""
    if parent:
        parent = str(Path(parent).expanduser().resolve())
    folder = tempfile.mkdtemp(prefix=PREFIX, dir=parent or None)
    try:
        Path(folder, OWNER).write_text(json.dumps(owner_mark()), encoding="ascii")
        Path(folder, ARCHIVE).write_bytes(archive)
    except BaseException:
        shutil.rmtree(folder, True)
        raise
    return folder


def owner_mark() -> "dict[str, object]":
    """Whose folder it is. A process number means something only on one host, until that is
    started again, and among the processes of one container."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - Path has it since 3.9
    except OSError:
        namespace = ""
    return {
        "tool": TOOL,
        "host": platform.node(),
        "boot": boot_id(),
        "namespace": namespace,
        "pid": os.getpid(),
    }


def boot_id() -> str:
    """Another one each time the system starts."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def no_folder(parent: str, error: OSError) -> str:
    where = parent or "the temporary folder of the device"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "{} is full: name another folder there with --device-folder.".format(where)
    return "No folder can be made in {} ({}): name another with --device-folder.".format(
        where, error.strerror or error
    )


def private_folder() -> Path:
    """Where --setup keeps its virtual environment."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "mnv4-deploy" / "device"


def choose_python(private: bool) -> str:
    """The private environment's interpreter where there is one, else this one."""
    python = str(private_folder() / "bin" / "python")
    return python if private and os.access(python, os.X_OK) else sys.executable


def refuse(name: str, message: str) -> int:
    body = {"class": name, "message": message}
    line = json.dumps({"kind": "error", "body": body, "arrays": [], "bytes": 0})
    os.write(1, line.encode("ascii") + b"\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
