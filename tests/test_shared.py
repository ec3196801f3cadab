"""Expensive files of tests: made once by however many processes, whole or not at all."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.shared import Shared, run_folder

ASKING = 4


def test_of_many_that_ask_one_makes_and_all_read(tmp_path: Path) -> None:
    """Each has a lock of its own, as processes have; the system tells locks apart by opening."""
    together = threading.Barrier(ASKING)
    made: list[Path] = []

    def make(folder: Path) -> str:
        made.append(folder)
        (folder / "first").write_bytes(b"1")
        time.sleep(0.2)  # others that did not wait would find only the first
        (folder / "second").write_bytes(b"2")
        return "whole"

    def ask(_: int) -> tuple[str, list[str]]:
        together.wait(timeout=60)
        folder, value = Shared(tmp_path).folder_and_value("some-files", make)
        return value, sorted(path.name for path in folder.iterdir())

    with ThreadPoolExecutor(ASKING) as pool:
        found = list(pool.map(ask, range(ASKING)))
    assert found == [("whole", ["first", "second", "value.pickle"])] * ASKING
    assert len(made) == 1


def test_what_failed_leaves_nothing_and_is_made_again(tmp_path: Path) -> None:
    shared = Shared(tmp_path)

    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        shared.folder("files", fail)
    assert not (tmp_path / "files").exists()
    folder = shared.folder("files", lambda made: (made / "whole").touch())
    assert [path.name for path in folder.iterdir()] == ["whole"]


def test_a_test_that_writes_to_shared_files_is_found(tmp_path: Path) -> None:
    shared = Shared(tmp_path)
    shared.folder("left-alone", lambda made: (made / "a").write_bytes(b"1"))
    folder = shared.folder("written-to", lambda made: (made / "a").write_bytes(b"1"))
    assert shared.changed() == []
    (folder / "a").write_bytes(b"22")
    assert shared.changed() == ["written-to"]


def test_the_run_is_above_a_worker_and_is_not_above_a_process_alone(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw3")
    assert run_folder(tmp_path / "popen-gw3") == tmp_path / "shared"
    monkeypatch.delenv("PYTEST_XDIST_WORKER")
    assert run_folder(tmp_path) == tmp_path / "shared"
