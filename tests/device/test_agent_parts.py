"""Clocks, heat, titles, emulators and abandoned folders, from made-up systems."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mnv4_deploy.errors import OutputError, ToolchainError
from mnv4_deploy.profiles.agent import facts
from mnv4_deploy.profiles.agent.bootstrap import no_folder, owner_mark, too_old
from mnv4_deploy.profiles.agent.state import read_state
from mnv4_deploy.profiles.agent.store import Store
from mnv4_deploy.profiles.files.own import remove_abandoned


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_state_of_a_board_with_two_clusters(tmp_path: Path) -> None:
    for policy, governor, now, highest in (
        (0, "ondemand", 600000, 1800000),
        (4, "performance", 2400000, 2400000),
    ):
        folder = tmp_path / f"devices/system/cpu/cpufreq/policy{policy}"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{governor}\n")
        (folder / "scaling_cur_freq").write_text(f"{now}\n")
        (folder / "scaling_max_freq").write_text(f"{highest}\n")
    for zone, kind, temperature in (
        (0, "cpu-thermal", "61234"),
        (1, "cpu-thermal", "48000"),
        (2, "broken", "-274000"),
        (3, "asleep", ""),
    ):
        folder = tmp_path / f"class/thermal/thermal_zone{zone}"
        folder.mkdir(parents=True)
        (folder / "type").write_text(f"{kind}\n")
        (folder / "temp").write_text(f"{temperature}\n")
    state = read_state(tmp_path, firmware=lambda: "")
    assert state.governors == {"policy0": "ondemand", "policy4": "performance"}
    assert state.clocks_mhz == {"policy0": (600.0, 1800.0), "policy4": (2400.0, 2400.0)}
    assert state.temperatures_c == {"cpu-thermal": 61.234, "cpu-thermal thermal_zone1": 48.0}
    assert state.throttled == ""


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("0x0", ""),
        ("0x50000", ""),  # it was throttled at some time since the start, not now
        ("0x50005", "its supply voltage is too low, it is throttled"),
        ("0x8", "the soft temperature limit is active"),
        ("2", "the Arm clock is capped"),
        ("error", ""),
        ("", ""),
    ],
)
def test_word_of_a_raspberry_pi(tmp_path: Path, word: str, expected: str) -> None:
    assert read_state(tmp_path, firmware=lambda: word).throttled == expected
    place = tmp_path / "devices/platform/soc/soc:firmware/get_throttled"
    place.parent.mkdir(parents=True)
    place.write_text(f"{word}\n")
    assert read_state(tmp_path, firmware=lambda: "").throttled == expected


def test_titles(tmp_path: Path) -> None:
    dmi = tmp_path / "sys/class/dmi/id"
    dmi.mkdir(parents=True)
    assert facts.read_title(tmp_path) in (os.uname().nodename, os.uname().machine)
    (dmi / "sys_vendor").write_text("LENOVO\n")
    (dmi / "product_name").write_text("To Be Filled By O.E.M.\n")
    assert facts.read_title(tmp_path) in (os.uname().nodename, os.uname().machine)
    (dmi / "product_name").write_text("20XW\n")
    assert facts.read_title(tmp_path) == "LENOVO 20XW"
    (dmi / "sys_vendor").write_text("Default string\n")
    assert facts.read_title(tmp_path) == "20XW"
    model = tmp_path / "proc/device-tree/model"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"Raspberry Pi 5 Model B Rev 1.0\0")
    assert facts.read_title(tmp_path) == "Raspberry Pi 5 Model B Rev 1.0"


def test_emulator_is_named_by_what_really_runs(tmp_path: Path) -> None:
    assert facts.find_emulator() == ""
    # This Python by that name, which waits for its input as the emulated one would.
    real = Path(sys.executable).resolve()
    emulator = tmp_path / "qemu-aarch64-static"
    emulator.write_bytes(real.read_bytes())
    emulator.chmod(0o755)
    (tmp_path / "pyvenv.cfg").write_text(f"home = {real.parent}\n")
    assert facts.find_emulator(str(emulator)) == "qemu-aarch64-static"
    assert facts.find_emulator(str(tmp_path / "missing")) == ""


def test_abandoned_folders_are_removed_and_others_are_not(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here = owner_mark()
    dead = {**here, "pid": ended.pid}
    owners = {
        "mnv4-deploy-dead": dead,
        "mnv4-deploy-before": {**here, "boot": "another start"},
        "mnv4-deploy-alive": here,
        "mnv4-deploy-host": {**dead, "host": "another", "boot": "another start"},
        "mnv4-deploy-container": {**dead, "namespace": "pid:[1]"},
        "mnv4-deploy-tool": {**dead, "tool": "another"},
        "mnv4-deploy-half": {"pid": ended.pid, "boot": here["boot"]},
        "other-dead": dead,
    }
    for name, owner in owners.items():
        write(tmp_path, **{f"{name}__owner.json": json.dumps(owner), f"{name}__x": "x"})
    write(tmp_path, **{"mnv4-deploy-garbage__owner.json": "[1", "mnv4-deploy-file": "x"})
    (tmp_path / "mnv4-deploy-no-owner").mkdir()
    (tmp_path / "mnv4-deploy-link").symlink_to(tmp_path / "other-dead")
    remove_abandoned(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("mnv4-deploy-alive", "other-dead", "mnv4-deploy-garbage", "mnv4-deploy-file"),
        *("mnv4-deploy-host", "mnv4-deploy-container", "mnv4-deploy-tool", "mnv4-deploy-half"),
        *("mnv4-deploy-no-owner", "mnv4-deploy-link"),
    }
    assert (tmp_path / "other-dead" / "x").exists()


def test_versions_of_python() -> None:
    assert too_old((3, 10)) == too_old((3, 14)) == too_old((4, 0)) == ""
    assert "3.10 or newer is needed" in too_old((3, 9)) and "is 3.9" in too_old((3, 9))


def test_reasons_for_no_folder() -> None:
    assert no_folder("", OSError(28, "No space left on device")).startswith(
        "the temporary folder of the device is full"
    )
    assert "(Read-only file system)" in no_folder("/x", OSError(30, "Read-only file system"))


def test_store_checks_what_arrives(tmp_path: Path) -> None:
    store = Store(tmp_path)
    key, digest = "0" * 64, "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    store.begin(key, "a/model", 1, digest)
    store.add(b"x")
    path = store.finish()
    assert path == tmp_path / "files" / key / "a" / "model" and path.read_bytes() == b"x"
    store.begin(key, "b", 1, digest)
    store.add(b"y")
    with pytest.raises(ToolchainError, match="damaged"):
        store.finish()
    assert not (path.parent.parent / "b").exists()
    with pytest.raises(ToolchainError, match="never began"):
        store.finish()
    for name in ("../x", "/x", "a/../../x", "a\0b"):
        with pytest.raises(ToolchainError, match="out of its folder"):
            store.begin(key, name, 1, digest)
    with pytest.raises(OutputError, match=r"MB free and 1000000000\d\d MB are needed"):
        store.begin(key, "large", 10**17, digest)
