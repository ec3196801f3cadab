"""The command cache: it sees what commands keep, and removes nothing that we did not write."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mnv4_deploy
from mnv4_deploy.cli import app as cli
from mnv4_deploy.drift import store
from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.models import hub
from mnv4_deploy.profiles.files.lock import hold
from mnv4_deploy.profiles.machine import cache as machines
from mnv4_deploy.profiles.records.machine import Machine

A_RUN = "0123456789abcdef" * 2
OTHER_RUN = "fedcba9876543210" * 2
REPOSITORY = "models--timm--mobilenetv4_conv_small.e2400_r224_in1k"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Every cache below one folder, with what commands and other programs leave there."""
    for variable in ("MNV4_DEPLOY_CACHE", "HF_HUB_CACHE", "HF_HOME", "MPLCONFIGDIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ours = tmp_path / "mnv4-deploy"
    machine = Machine("a cpu", 1, (), {}, "today", "none", {}, ())
    machines.save_machine(machine)
    machines.save_machine(machine, "a board")
    for run in (A_RUN, OTHER_RUN):
        folder = ours / "drift" / run
        folder.mkdir(parents=True)
        (folder / store._MARK).write_text(store._MARK_TEXT)
        (folder / "000000.npz").write_bytes(b"x" * 1000)
    blobs = tmp_path / "huggingface" / "hub" / REPOSITORY / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "a").write_bytes(b"x" * 5000)
    snapshot = blobs.parent / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to(blobs / "a")
    (tmp_path / "matplotlib").mkdir()
    (tmp_path / "matplotlib" / "fontlist.json").write_bytes(b"x" * 70)
    return tmp_path


# Of other programs and of users, in places and with names like ours.
THEIRS = {
    "mnv4-deploy/machine-of-mine.json": '{"schema_version": 1, "machine": {}}',
    "mnv4-deploy/machine-0123456789abcdef.json": '{"theirs": 1}',
    "mnv4-deploy/machine-fedcba9876543210.json": "no JSON",
    "mnv4-deploy/notes.txt": "mine",
    "mnv4-deploy/drift/notes.txt": "mine",
    f"mnv4-deploy/drift/{'a' * 32}/000000.npz": "no mark beside it",
    f"mnv4-deploy/drift/{A_RUN}/notes.txt": "mine",
    "mnv4-deploy/device/pyvenv.cfg": "an environment without our mark",
    "huggingface/hub/models--other--model/blobs/a": "of another program",
}


def put_theirs(home: Path) -> None:
    for name, text in THEIRS.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)


def found() -> dict[str, int]:
    return {cache.name: cache.size_bytes for cache in mnv4_deploy.list_caches()}


def below(folder: Path) -> set[str]:
    paths = (path for path in folder.rglob("*") if not path.is_dir())
    return {path.relative_to(folder).as_posix() for path in paths}


def test_sizes_are_those_of_the_files_and_links_count_once(home):
    kept = sum(path.stat().st_size for path in home.glob("mnv4-deploy/machine-*.json"))
    assert kept > 100
    mark = len(store._MARK_TEXT)
    assert found() == {
        "ceilings": kept,
        "drift": 2 * (1000 + mark),
        "device": 0,
        "weights": 5000,
        "fonts": 70,
    }


def test_nothing_of_others_is_counted(home):
    before = found()
    put_theirs(home)
    after = found()
    assert after.pop("drift") - before.pop("drift") == len(
        THEIRS[f"mnv4-deploy/drift/{A_RUN}/notes.txt"]
    )
    assert after == before


def test_clearing_removes_what_is_ours_and_nothing_else(home):
    before = below(home)
    put_theirs(home)
    for name in ("ceilings", "drift", "device"):
        mnv4_deploy.clear_cache(name)
    shared = {name for name in before if not name.startswith("mnv4-deploy/")}
    assert below(home) == shared | set(THEIRS)
    assert {home.joinpath(name).read_text() for name in THEIRS} == set(THEIRS.values())


def test_links_are_not_followed(home, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    target = home / "mnv4-deploy" / "drift" / A_RUN
    target.rename(elsewhere / A_RUN)
    target.symlink_to(elsewhere / A_RUN)
    before = below(elsewhere)
    mnv4_deploy.clear_cache("drift")
    assert below(elsewhere) == before


def test_a_run_at_work_keeps_its_images(home):
    drift = home / "mnv4-deploy" / "drift"
    code = (
        "import sys, pathlib; from mnv4_deploy.profiles.files.lock import hold;"
        "held = hold(pathlib.Path(sys.argv[1])); print(held is not None, flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(drift / A_RUN)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "True"
        mnv4_deploy.clear_cache("drift")
        process.communicate("\n")
    assert {path.name for path in drift.iterdir()} == {A_RUN}
    descriptor = hold(drift / A_RUN)
    assert descriptor is not None
    os.close(descriptor)


def test_what_is_shared_is_left_to_its_owner(home):
    before = below(home)
    hub_id = "timm/mobilenetv4_conv_small.e2400_r224_in1k"
    with pytest.raises(UnsupportedError, match=f"hf cache rm .*model/{hub_id}"):
        mnv4_deploy.clear_cache("weights")
    with pytest.raises(UnsupportedError, match="rm -r"):
        mnv4_deploy.clear_cache("fonts")
    assert below(home) == before


def test_the_command_for_weights_is_the_hubs_own(home):
    """It does remove them, and no other repository."""
    tool = Path(sys.executable).with_name("hf")
    if not tool.exists():
        pytest.skip("needs huggingface-hub")
    put_theirs(home)
    weights = next(cache for cache in mnv4_deploy.list_caches() if cache.name == "weights")
    program, *words = weights.advice.split()
    assert program == "hf"
    subprocess.run([tool, *words, "--yes"], check=True, capture_output=True, timeout=120)
    left = below(home / "huggingface" / "hub")
    assert {name for name in left if name.startswith("models--")} == {
        "models--other--model/blobs/a"
    }


def test_where_the_hub_keeps_things_is_what_its_library_says(home, monkeypatch):
    pytest.importorskip("huggingface_hub")
    code = "from huggingface_hub.constants import HF_HUB_CACHE; print(HF_HUB_CACHE)"
    for variable, value in (("HF_HOME", home / "hf"), ("HF_HUB_CACHE", home / "there"), ("", "")):
        monkeypatch.setenv(variable or "UNUSED", str(value))
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert str(hub.cache_folder()) == done.stdout.strip()


@pytest.mark.usefixtures("home")
def test_on_the_command_line(capsys):
    def run(*words):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["cache", *words])
        return stopped.value.code, capsys.readouterr().out

    caches = {cache["name"]: cache for cache in json.loads(run("--json")[1])["caches"]}
    assert caches["drift"]["size_bytes"] == found()["drift"]
    assert all(Path(path).exists() for cache in caches.values() for path in cache["paths"])
    code, printed = run()
    assert code == 0 and all(name in printed for name in caches)
    (cleared,) = json.loads(run("--clear", "drift", "--json")[1])["cleared"]
    assert cleared["size_bytes"] == caches["drift"]["size_bytes"]
    assert found()["drift"] == 0
    assert run("--clear", "everything") == (2, "")
