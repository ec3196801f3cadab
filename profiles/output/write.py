"""Files that are there as a whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from mnv4_deploy.errors import OutputError


def write_whole(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, replacing what is there only once all of it is on disk.

    Raises OutputError where the folder is missing or not writable, or the disk is full.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
            # mkstemp gives only the owner access; a report is an ordinary file.
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError(
            f"Cannot write {path} ({error.strerror or error}): choose another place for it."
        ) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
