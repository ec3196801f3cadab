"""What is cached comes back, and what is damaged counts as not there."""

import json
import platform
from dataclasses import replace
from pathlib import Path

import pytest

from mnv4_deploy.errors import OutputError
from mnv4_deploy.profiles.machine import cache, ceilings
from mnv4_deploy.profiles.records.machine import Ceilings, Machine, MemoryLevel


def _ceilings(threads: int, peak: float = 4e10) -> Ceilings:
    return Ceilings(
        threads=threads,
        peak_macs_per_s={"xnnpack": {"float32": peak, "int8 dynamic": 5e10}},
        memory=(MemoryLevel("L1", 32768 * threads, 1.8e11), MemoryLevel("DRAM", None, 3e10)),
        op_overhead_us={"xnnpack": 0.25, "onnxruntime": 0.0},
        spin_us=2300.5,
        clock_ghz=2.85,
    )


def _machine(*threads: int, peak: float = 4e10) -> Machine:
    return Machine(
        cpu="Some CPU",
        cores=2,
        isa=("avx2", "fma"),
        caches={"L1": 32768},
        measured_on="2026-01-02T03:04:05+00:00",
        method="how",
        versions={"onnxruntime": "1.31.1"},
        ceilings=tuple(_ceilings(n, peak) for n in threads),
        limits_macs_per_s={"float32": 4.56e10},
    )


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("MNV4_DEPLOY_CACHE", str(tmp_path / "made/on/raise_if_failed"))
    return tmp_path / "made/on/raise_if_failed"


@pytest.fixture
def measured(monkeypatch) -> list[tuple[int, ...]]:
    """The thread counts of every measurement asked for; none is really made."""
    calls = []

    def measure_machine(threads):
        calls.append(tuple(threads))
        return replace(_machine(*threads, peak=9e10), measured_on="later")

    monkeypatch.setattr(ceilings, "measure_machine", measure_machine)
    return calls


def test_round_trip(folder):
    assert cache.load_machine() is None
    path = cache.save_machine(_machine(1, 2))
    assert path.parent == folder
    assert cache.load_machine() == _machine(1, 2)
    assert [p.name for p in folder.iterdir()] == [path.name]  # no unfinished file stays


def test_only_missing_thread_counts_are_measured(measured):
    cache.save_machine(_machine(1))
    machine = cache.machine_for([1, 2])
    assert measured == [(2,)]
    assert [c.threads for c in machine.ceilings] == [1, 2]
    assert machine.with_threads(1).peak("xnnpack", "float32") == 4e10
    assert machine.with_threads(2).peak("xnnpack", "float32") == 9e10
    assert cache.load_machine() == machine
    assert cache.missing_ceilings([1, 2, 3]) == (3,)
    cache.machine_for(2)
    assert len(measured) == 1


def test_measuring_again_replaces_what_was_asked_for_alone(measured):
    cache.save_machine(_machine(1, 2))
    machine = cache.machine_for(1, measure=True)
    assert measured == [(1,)]
    assert machine.with_threads(1).peak("xnnpack", "float32") == 9e10
    assert machine.with_threads(2).peak("xnnpack", "float32") == 4e10
    assert machine.measured_on == "later"


def test_without_measuring_there_is_what_the_cache_has(measured):
    assert cache.machine_for(1, measure=False) is None
    cache.save_machine(_machine(1))
    assert cache.machine_for(1, measure=False) == _machine(1)
    assert cache.machine_for([1, 2], measure=False) is None
    assert measured == []


def _edit(change):
    path = cache.save_machine(_machine(1))
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(schema_version=99),
        lambda c: c.pop("schema_version"),
        lambda c: c["machine"].pop("ceilings"),
        lambda c: c["machine"].update(ceilings=[{}]),
        lambda c: c["machine"].update(ceilings="none"),
        lambda c: c["machine"].update(caches=[1, 2]),
        lambda c: c["machine"]["ceilings"][0].update(spin_us=None),
        lambda c: c["machine"]["ceilings"][0]["memory"][0].update(bytes_per_s=0),
        lambda c: c["machine"]["ceilings"][0]["memory"][0].update(bytes_per_s=float("nan")),
        lambda c: c["machine"]["ceilings"][0]["peak_macs_per_s"]["xnnpack"].update(float32=-1),
        lambda c: c.update(machine=None),
    ],
)
def test_other_schema_and_wrong_content_count_as_not_there(change):
    _edit(change)
    assert cache.load_machine() is None
    assert cache.missing_ceilings(1) == (1,)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b"3"])
def test_damaged_files_count_as_not_there_and_are_replaced(content, measured):
    path = cache.save_machine(_machine(1))
    path.write_bytes(content)
    assert cache.load_machine() is None
    assert cache.machine_for(1) == cache.load_machine()
    assert measured == [(1,)]


@pytest.mark.usefixtures("measured")
def test_folder_that_cannot_be_written_is_a_note(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MNV4_DEPLOY_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(OutputError, match="MNV4_DEPLOY_CACHE"):
        cache.save_machine(_machine(1))
    notes: list[str] = []
    machine = cache.machine_for(1, note=notes.append)
    assert machine.with_threads(1) is not None
    assert len(notes) == 1
    assert "cannot be kept" in notes[0]
    assert cache.machine_for(1) == machine  # and without anyone to tell


def test_disk_full_leaves_the_old_file_and_nothing_else(folder, monkeypatch):
    path = cache.save_machine(_machine(1))

    def full(_self, _target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match="No space left"):
        cache.save_machine(_machine(1, 2))
    monkeypatch.undo()
    assert [p.name for p in folder.iterdir()] == [path.name]
    assert json.loads(path.read_text())["machine"]["ceilings"][0]["threads"] == 1


def test_key_follows_processor_and_versions(monkeypatch):
    first = cache.cache_path()
    monkeypatch.setattr(ceilings, "versions", lambda: {"onnxruntime": "0"})
    second = cache.cache_path()
    monkeypatch.setattr(cache, "fingerprint", lambda: "another")
    assert len({first, second, cache.cache_path()}) == 3


@pytest.mark.parametrize(
    ("system", "variable", "expected"),
    [
        ("Linux", "XDG_CACHE_HOME", "{base}/mnv4-deploy"),
        ("Linux", None, "{home}/.cache/mnv4-deploy"),
        ("Darwin", None, "{home}/Library/Caches/mnv4-deploy"),
        ("Windows", "LOCALAPPDATA", "{base}/mnv4-deploy"),
    ],
)
def test_folder_of_each_system(system, variable, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: system)
    for name in ("MNV4_DEPLOY_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    if variable:
        monkeypatch.setenv(variable, str(tmp_path / "base"))
    wanted = expected.format(base=tmp_path / "base", home=tmp_path / "home")
    assert cache.cache_folder() == Path(wanted)
