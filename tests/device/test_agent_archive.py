"""The archive has all that an agent can import, and nothing that a device cannot run."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import pytest

from mnv4_deploy.device.linux import archive
from tests.device.old_pythons import OLDEST, pythons
from tests.time_limit import PATIENCE_S

FORBIDDEN = {"torch", "onnx", "llvmlite", "matplotlib", "plotly", "rich", "typer", "PIL"}


@cache
def members() -> dict[str, str]:
    with zipfile.ZipFile(io.BytesIO(archive.build_archive())) as file:
        return {name: file.read(name).decode() for name in file.namelist()}


def imported(text: str) -> set[str]:
    """The modules of this package that a source imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.startswith("mnv4_deploy.")}


def module_name(member: str) -> str:
    return member.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def reachable(start: set[str]) -> set[str]:
    """The members that ``start`` imports, directly or not."""
    files = {module_name(name): text for name, text in members().items()}
    seen: set[str] = set()
    waiting = set(start)
    while waiting:
        name = waiting.pop()
        seen.add(name)
        waiting |= {x for x in imported(files[name]) if x in files} - seen
    return seen


def test_same_sources_give_the_same_bytes() -> None:
    first = archive.build_archive()
    archive.build_archive.cache_clear()
    assert archive.build_archive() == first
    assert len(first) < 1 << 20


def test_every_module_that_the_agent_asks_for_is_in_it() -> None:
    """What operations run in children included, whose functions they import."""
    files = members()
    there = {module_name(name) for name in files}
    start = {
        "mnv4_deploy.profiles.agent.supervisor",
        "mnv4_deploy.profiles.agent.tensor_process",
    }
    assert start <= there
    assert "mnv4_deploy.profiles.measure.measure" in reachable(start)
    for name in reachable(start):
        text = next(text for member, text in files.items() if module_name(member) == name)
        for wanted in imported(text):
            # "from module import name": the name may be a module or anything in one.
            assert wanted in there or wanted.rpartition(".")[0] in there, (name, wanted)


def test_agent_modules_import_with_the_standard_library_alone(tmp_path: Path) -> None:
    """From an empty folder, without site-packages; and nothing heavy comes along."""
    target = tmp_path / "agent.pyz"
    target.write_bytes(archive.build_archive())
    names = sorted(
        module_name(name)
        for name in members()
        if name.startswith("mnv4_deploy/profiles/agent/") and not name.endswith("__init__.py")
    )
    code = (
        f"import sys, importlib; sys.path.insert(0, {str(target)!r})\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print(*sys.modules)"
    )
    for python in (sys.executable, *pythons(OLDEST)):
        done = subprocess.run(
            [python, "-I", "-S", "-c", code],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert not (FORBIDDEN | {"numpy"}) & set(done.stdout.split())


def test_nothing_that_measures_or_runs_imports_what_a_device_lacks() -> None:
    start = {"mnv4_deploy.profiles.measure.measure", "mnv4_deploy.profiles.agent.supervisor"}
    files = {module_name(name): text for name, text in members().items()}
    for name in reachable(start):
        tree = ast.parse(files[name])
        for node in tree.body:  # at the top; functions may, where the host alone calls them
            if isinstance(node, ast.Import):
                tops = {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                tops = {(node.module or "").partition(".")[0]}
            else:
                continue
            assert not tops & FORBIDDEN, name


def test_sources_parse_on_the_oldest_python() -> None:
    for name, text in members().items():
        ast.parse(text, name, feature_version=(3, 10))


def test_bootstrap_parses_on_pythons_that_it_refuses() -> None:
    text = members()["mnv4_deploy/profiles/agent/bootstrap.py"]
    ast.parse(text, feature_version=(3, 5))


def test_bootstrap_is_one_word_to_every_shell() -> None:
    code = archive.bootstrap_code()
    assert code.isascii() and code.isprintable()
    assert not set(code) & set("'!\\$`\n\t")
    assert len(code) < 4096


@pytest.mark.parametrize("shell", ["sh", "bash", "dash", "zsh", "fish", "csh", "tcsh", "ksh"])
def test_shells_pass_the_bootstrap_on(shell: str) -> None:
    from shutil import which

    from mnv4_deploy.device.linux.ssh import remote_command

    if which(shell) is None:
        pytest.skip(f"needs {shell}")
    command = remote_command(sys.executable, archive.bootstrap_code())
    done = subprocess.run(
        [shell, "-c", command],
        input=b"",
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )
    # It got as far as asking for the archive.
    assert b"mnv4-deploy agent" in done.stdout
    assert b"ended before the agent was there" in done.stderr
