"""The private environment: whole or not there, made once, and taken away again. No network."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from mnv4_deploy.device.address import parse_address
from mnv4_deploy.device.linux.device import open_agent
from mnv4_deploy.errors import OutputError, ToolchainError, UnsupportedError
from mnv4_deploy.profiles.agent import setup
from mnv4_deploy.profiles.agent.bootstrap import choose_python, private_folder
from mnv4_deploy.profiles.records.device import DeviceOptions
from tests.time_limit import PATIENCE_S, wait_until

pytest.importorskip("ensurepip")
pytestmark = pytest.mark.usefixtures("patient")


def wheel(folder: Path, name: str = "planted", version: str = "1.0") -> None:
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", "answer = 42\n")
        file.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")


# In place of the standard library's, for "python -m venv".
_VENV = """
import sys
from pathlib import Path
sys.path.remove({here!r})
from venv import main
main(["--without-pip", *sys.argv[1:]])
(site,) = Path(sys.argv[-1]).glob("lib/python*/site-packages")
(site / "pip").symlink_to({pip!r})
"""


@pytest.fixture
def borrowed_pip(tmp_path_factory: pytest.TempPathFactory, monkeypatch) -> None:
    """Environments with the pip of this one: one of their own takes seconds to install."""
    pip = pytest.importorskip("pip")
    here = tmp_path_factory.mktemp("borrowed")
    code = _VENV.format(here=str(here), pip=str(Path(pip.__file__).parent))
    (here / "venv.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(here), prepend=os.pathsep)


@pytest.fixture
def place(tmp_path: Path) -> setup.Place:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel(wheels)
    variables = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
    return setup.Place(tmp_path / "cache" / "mnv4-deploy" / "device", variables)


def environment(folder: Path) -> None:
    """What an earlier --setup left, of other packages."""
    folder.mkdir(parents=True)
    (folder / "pyvenv.cfg").touch()
    (folder / "requirements.json").write_text('{"python": "3.11", "requirements": ["x==1"]}')


@pytest.mark.parametrize("mark", [None, "[]", '{"name": "a web app"}'])
@pytest.mark.usefixtures("borrowed_pip")
def test_a_folder_of_the_users_in_its_place_stays(place: setup.Place, mark: str | None) -> None:
    environment(place.folder)
    (place.folder / "thesis.tex").write_text("the user's")
    (place.folder / "requirements.json").unlink()
    if mark is not None:
        (place.folder / "requirements.json").write_text(mark)
    unfinished = place.folder.parent / "mnv4-deploy-notes"
    for folder in (unfinished, place.folder.parent / "unfinished-notes"):
        folder.mkdir()
    with pytest.raises(OutputError, match="move it away"):
        setup.make(place, lambda _: None, ["planted==1.0"])
    setup.abort(place)
    assert not setup.remove(place)
    assert (place.folder / "thesis.tex").read_text() == "the user's"
    assert unfinished.exists()


@pytest.mark.usefixtures("borrowed_pip")
def test_an_environment_of_ours_is_replaced(place: setup.Place) -> None:
    environment(place.folder)
    (place.folder / "old").touch()
    setup.make(place, lambda _: None, ["planted==1.0"])
    assert not (place.folder / "old").exists()
    assert [p.name for p in place.folder.parent.iterdir()] == ["device"]


def test_environment_is_made_once_and_removed(place: setup.Place) -> None:
    lines: list[str] = []
    folder = setup.make(place, lines.append, ["planted==1.0"])
    assert folder == place.folder and folder.stat().st_mode & 0o777 == 0o700
    python = folder / "bin" / "python"
    done = subprocess.run(
        [python, "-c", "import planted; print(planted.answer)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "42\n"
    assert any("planted" in line for line in lines)
    assert [p.name for p in folder.parent.iterdir()] == ["device"]

    before = folder.stat().st_mtime_ns
    again: list[str] = []
    assert setup.make(place, again.append, ["planted==1.0"]) == folder
    assert again == [] and folder.stat().st_mtime_ns == before

    assert setup.remove(place)
    assert not place.folder.parent.exists()
    assert not setup.remove(place)


@pytest.mark.usefixtures("borrowed_pip")
def test_failed_environment_leaves_the_old_one_and_nothing_else(place: setup.Place) -> None:
    environment(place.folder)
    (place.folder / "old").touch()
    with pytest.raises(UnsupportedError, match=r"no build of planted==2\.0 for Python 3.* on "):
        setup.make(place, lambda _: None, ["planted==2.0"])
    assert [p.name for p in place.folder.parent.iterdir()] == ["device"]
    assert (place.folder / "old").exists()


@pytest.mark.usefixtures("borrowed_pip")
def test_pip_that_fails_says_why(place: setup.Place, tmp_path: Path) -> None:
    (tmp_path / "wheels" / "planted-1.0-py3-none-any.whl").write_bytes(b"no zip")
    with pytest.raises(ToolchainError, match="pip install failed on the device: ERROR"):
        setup.make(place, lambda _: None, ["planted==1.0"])
    assert not list(place.folder.parent.iterdir())


def test_python_without_venv(place: setup.Place, tmp_path: Path, monkeypatch) -> None:
    """Debian's python3 without python3-venv: its venv ends with this text."""
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\necho 'The virtual environment was not created successfully because ensurepip"
        " is not'\nexit 1\n"
    )
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    with pytest.raises(ToolchainError, match="apt install python3-venv"):
        setup.make(place, lambda _: None, ["planted==1.0"])
    assert not list(place.folder.parent.iterdir())


def test_cache_that_cannot_be_written(place: setup.Place) -> None:
    place.folder.parent.parent.parent.mkdir(exist_ok=True)
    place.folder.parent.parent.write_text("a file in the way")
    with pytest.raises(OutputError, match="cannot be made on the device"):
        setup.make(place, lambda _: None, ["planted==1.0"])


@pytest.mark.usefixtures("borrowed_pip")
def test_closing_during_setup_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    """pip waits for an index that never answers."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.getsockname()[1]}/simple")
        notes: list[str] = []
        options = DeviceOptions(folder=str(tmp_path))
        with open_agent(parse_address("local"), options, notes.append) as device:
            thread = threading.Thread(target=_quiet(device.setup))
            thread.start()
            server.settimeout(PATIENCE_S)
            connection, _ = server.accept()
        thread.join(PATIENCE_S)
        connection.close()
    assert "making a virtual environment" in notes[0]
    wait_until(lambda: not list((cache / "mnv4-deploy").iterdir()))
    assert [p.name for p in tmp_path.iterdir()] == ["cache"]


def _quiet(call):
    def run() -> None:
        with pytest.raises(ToolchainError):
            call()

    return run


def test_private_interpreter_is_used_where_it_is_wanted_and_there(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert private_folder() == tmp_path / "mnv4-deploy" / "device"
    assert choose_python(True) == sys.executable
    python = private_folder() / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to("/no-such-python")  # the system's Python was replaced by another
    assert choose_python(True) == sys.executable
    python.unlink()
    python.symlink_to(sys.executable)
    assert choose_python(True) == str(python)
    assert choose_python(False) == sys.executable
