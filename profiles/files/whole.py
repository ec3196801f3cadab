"""Files that are there as a whole or not at all, also after a power cut."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from mnv4_deploy.errors import OutputError

# What systems answer that cannot sync such a file or folder.
_NOT_SYNCED = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF, errno.EISDIR)


def write_whole(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, replacing what is there only once all of it is on disk.

    Raises OutputError where the folder is missing or not writable, or the disk is full.
    """
    try:
        replace_whole(path, content)
    except OSError as error:
        raise OutputError(
            f"Cannot write {path} ({error.strerror or error}): choose another place for it."
        ) from error


def replace_whole(path: Path, content: bytes) -> None:
    """:func:`write_whole` for callers that explain an OSError themselves."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        # mkstemp gives only the owner access; a report is an ordinary file.
        temporary.chmod(0o666 & ~_umask())
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Have the system bring a file, or the names in a folder, to the disk, where it can.

    Raises OSError where the disk fails at it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder, on Windows
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_SYNCED:
            raise
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
