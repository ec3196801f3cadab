"""What is slow to make is made once a run, by the test process that first needs it."""

from __future__ import annotations

import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

T = TypeVar("T")
_VALUE = "value.pickle"
_NAME = re.compile("[a-z0-9-]+")


class Shared:
    """Folders below ``root`` that all test processes of a run read, and none writes to."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._root.mkdir(exist_ok=True)
        self._handed_out: dict[Path, dict[str, tuple[int, int]]] = {}

    def folder(self, name: str, make: Callable[[Path], object]) -> Path:
        """The folder ``name``, which ``make`` fills in the first process that asks for it.

        Other processes wait. What a ``make`` that raises has left is thrown away. It gets a
        folder that is renamed afterwards, so its files must not name their own place.
        """
        assert _NAME.fullmatch(name), f"{name!r} is no name of letters, digits and hyphens"
        folder = self._root / name
        with FileLock(folder.with_suffix(".lock")):
            if not folder.is_dir():
                unfinished = folder.with_suffix(".unfinished")
                shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
                unfinished.mkdir()
                make(unfinished)
                unfinished.rename(folder)
            self._handed_out.setdefault(folder, _stamps(folder))
        return folder

    def folder_and_value(self, name: str, make: Callable[[Path], T]) -> tuple[Path, T]:
        """As :meth:`folder`, and what ``make`` returned, which must pickle."""

        def make_and_keep(unfinished: Path) -> None:
            (unfinished / _VALUE).write_bytes(pickle.dumps(make(unfinished)))

        folder = self.folder(name, make_and_keep)
        value: T = pickle.loads((folder / _VALUE).read_bytes())
        return folder, value

    def changed(self) -> list[str]:
        """The folders that are not as this process first saw them."""
        return [f.name for f, before in self._handed_out.items() if _stamps(f) != before]


def run_folder(base: Path) -> Path:
    """Where a run's processes can meet. ``base`` is the temporary folder of this one.

    pytest-xdist puts the folders of its workers into that of the run; without it there is but
    one process, and what is above its folder belongs to other runs.
    """
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"


def _stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Size in bytes and time of the last change in ns, by path."""
    found = ((path, path.stat()) for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (s.st_size, s.st_mtime_ns) for path, s in found}
