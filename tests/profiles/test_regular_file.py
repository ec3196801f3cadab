"""Only regular files are read, only those of the folder, and only as much as there was."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mnv4_deploy.profiles.files import regular
from mnv4_deploy.profiles.files.regular import open_inside, open_regular, pieces, read_regular
from tests.astray import EVERYTHING, GONE, NO_FILES, OUTSIDE, SECRET, TOO_LARGE
from tests.time_limit import in_time

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    return made


@pytest.mark.parametrize("name", [*NO_FILES, *GONE, *TOO_LARGE])
def test_what_is_no_regular_file_is_refused_without_waiting(folder: Path, name: str) -> None:
    EVERYTHING[name](folder / "w.bin")
    with in_time(), pytest.raises(OSError):
        open_regular(folder / "w.bin")


@pytest.mark.parametrize("name", EVERYTHING)
def test_nor_is_anything_read_that_leads_out(folder: Path, name: str) -> None:
    EVERYTHING[name](folder / "w.bin")
    with in_time(), pytest.raises(OSError):
        open_inside(folder, "w.bin")


@pytest.mark.parametrize("location", ["", ".", "..", "../w.bin", "a/../w.bin", "/etc/passwd"])
def test_names_that_are_none_of_a_file_in_the_folder(folder: Path, location: str) -> None:
    (folder / "a").mkdir()
    (folder / "w.bin").write_bytes(CONTENT)
    (folder.parent / "w.bin").write_bytes(SECRET)
    with pytest.raises(OSError):
        open_inside(folder, location)


@pytest.mark.parametrize("open_", [open_regular, lambda path: open_inside(path.parent, path.name)])
def test_a_name_that_no_system_has(folder: Path, open_) -> None:
    for name in ("w\0.bin", "w" * 5000):
        with pytest.raises(OSError):
            open_(folder / name)


def test_a_folder_that_is_a_link_out(folder: Path) -> None:
    OUTSIDE["a link out"](folder / "w.bin")
    (folder / "sub").symlink_to((folder / "w.bin").resolve().parent)
    with pytest.raises(OSError):
        open_inside(folder, "sub/w.bin")


def test_links_within_the_folder_are_followed(folder: Path) -> None:
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "real").write_bytes(CONTENT)
    (folder / "short").symlink_to("deep/er")
    (folder / "w.bin").symlink_to(folder / "short" / "real")
    for location in ("w.bin", "./w.bin", "short/real", "deep//er/real"):
        with open_inside(folder, location) as file:
            assert file.read() == CONTENT
    (folder.parent / "also").symlink_to(folder)
    with open_inside(folder.parent / "also", "w.bin") as file:
        assert file.read() == CONTENT


@pytest.mark.parametrize(
    ("name", "inside"),
    [*((name, False) for name in NO_FILES), *((name, True) for name in NO_FILES | OUTSIDE)],
)
def test_what_takes_a_files_place_after_a_first_look_is_refused(
    folder: Path, name: str, inside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "w.bin"
    path.write_bytes(CONTENT)
    check = regular._check
    seen: list[os.stat_result] = []

    def then_change(facts: os.stat_result, max_bytes: int) -> None:
        check(facts, max_bytes)
        if not seen:
            path.unlink()
            EVERYTHING[name](path)
        seen.append(facts)

    monkeypatch.setattr(regular, "_check", then_change)
    with in_time(), pytest.raises(OSError):
        open_inside(folder, "w.bin") if inside else open_regular(path)
    assert seen


def test_a_folder_on_the_way_that_becomes_a_link_out_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "w.bin").write_bytes(CONTENT)
    outside = folder.parent / "outside"
    outside.mkdir()
    (outside / "w.bin").write_bytes(SECRET)
    below = regular._open_below

    def after_change(root: Path, parts: tuple[str, ...]) -> int:
        (folder / "sub").rename(folder / "was")
        (folder / "sub").symlink_to(outside)
        return below(root, parts)

    monkeypatch.setattr(regular, "_open_below", after_change)
    with pytest.raises(OSError):
        open_inside(folder, "sub/w.bin")


def test_no_descriptor_stays_open(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "w.bin").write_bytes(CONTENT)
    EVERYTHING["a FIFO"](folder / "pipe")
    before = sorted(Path("/proc/self/fd").iterdir())
    open_inside(folder, "sub/w.bin").close()
    for location in ("pipe", "sub", "sub/missing", "sub/w.bin/x"):
        with pytest.raises(OSError):
            open_inside(folder, location)
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_a_file_is_read_to_the_size_that_it_had(folder: Path) -> None:
    path = folder / "w.bin"
    path.write_bytes(CONTENT)
    assert read_regular(path, max_bytes=len(CONTENT)) == CONTENT
    with pytest.raises(OSError):
        read_regular(path, max_bytes=len(CONTENT) - 1)
    for size in (0, len(CONTENT) - 1, len(CONTENT) + 1):
        path.write_bytes(CONTENT)
        with open_regular(path) as file:
            found = pieces(file, 1000)
            assert next(found) == CONTENT[:1000]
            os.truncate(path, size)
            with pytest.raises(OSError):
                list(found)


def test_a_file_that_never_stops_growing_is_not_read_without_end(folder: Path) -> None:
    path = folder / "log"
    path.write_bytes(CONTENT)
    read = 0
    with in_time(), open_regular(path) as file, path.open("ab") as log, pytest.raises(OSError):
        for piece in pieces(file, 1000):
            read += len(piece)
            log.write(CONTENT)
            log.flush()
    assert read == len(CONTENT)
