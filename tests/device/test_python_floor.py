"""Boards have older Pythons: what is sent to them must do with 3.10."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mnv4_deploy.device.linux.archive import build_archive
from tests.time_limit import PATIENCE_S

pytest.importorskip("vermin")

FLOOR = "3.10"
# Reads machines.toml, which is not sent, and nothing on a device imports it.
_ONLY_HERE = "mnv4_deploy/profiles/machine/published.py"


def _violations(folder: Path) -> str:
    """What vermin finds in ``folder`` that the floor does not have; "" for nothing."""
    done = subprocess.run(
        [
            *(sys.executable, "-c", "from vermin import main; main()", f"--target={FLOOR}-"),
            *("--violations", "--no-tips", "--processes=1", "--quiet", str(folder)),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert not done.stderr, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive that goes to a device, unpacked."""
    folder = tmp_path_factory.mktemp("sent")
    with zipfile.ZipFile(io.BytesIO(build_archive())) as archive:
        archive.extractall(folder)
    (folder / _ONLY_HERE).unlink(missing_ok=True)
    return folder


def test_what_is_sent_runs_on_the_floor(sent: Path) -> None:
    assert len(list(sent.rglob("*.py"))) > 50
    assert _violations(sent) == ""


@pytest.mark.parametrize(
    "line", ["import tomllib", "from typing import Self", "from datetime import UTC"]
)
def test_the_check_finds_what_is_too_new(line: str, tmp_path: Path) -> None:
    (tmp_path / "new.py").write_text(line + "\n", encoding="utf-8")
    assert "3.11" in _violations(tmp_path)


def _floor_python() -> str:
    """A Python of the floor, where this machine has one."""
    found = shutil.which(f"python{FLOOR}")
    if found is None:
        return ""
    asked = subprocess.run(
        [found, "-c", "import sys; print(sys.executable)"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return asked.stdout.strip() if asked.returncode == 0 else ""


def test_a_python_of_the_floor_compiles_it(sent: Path) -> None:
    python = _floor_python()
    if not python:
        pytest.skip(f"there is no Python {FLOOR} here")
    subprocess.run(
        [python, "-I", "-m", "compileall", "-q", str(sent)],
        check=True,
        timeout=120,
        env={**os.environ, "PYTHONPYCACHEPREFIX": str(sent / "cache")},
    )
