"""The command lines of README.md and docs/: parses all of them, runs those that are marked.

    python tests/docs_commands.py          # what `make docs-check` does
    python tests/docs_commands.py --list   # the marked ones, without running them

A fenced block that runs has this line directly before it, with the exit code if it is not 0:

    <!-- docs-check: run -->
    <!-- docs-check: run, exit 1 -->

All marked blocks run one after the other in one temporary folder, README.md first, then the pages
in the order of docs/README.md. A block of console shows commands behind "$ " and their output; of
such a block the commands count.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from typer.exceptions import TyperException

from mnv4_deploy.cli.app import app
from mnv4_deploy.cli.export import named_model
from mnv4_deploy.device.address import parse_address
from mnv4_deploy.drift import limits
from mnv4_deploy.errors import DeployError
from mnv4_deploy.exporters.recipes import Targets
from mnv4_deploy.models import zoo
from mnv4_deploy.tasks.classification.task import CLASSIFICATION

ROOT = Path(__file__).parents[1]
SHELL = ("sh", "console")
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\s*$")
_DIRECTIVE = re.compile(r"<!-- docs-check: (.*) -->")
_RUN = re.compile(r"run(?:, exit (\d+))?")
_LINK = re.compile(r"\]\(([^)#\s]+\.md)")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
# Words of the shell, and programs of which only their users' machines know the options.
_SHELL_WORDS = frozenset({"export", "for", "done"})
_NOT_OURS = frozenset({"openssl"})  # tests/drift/test_cluster_tls.py makes its certificates so


@dataclass(frozen=True)
class Block:
    """A fenced block. ``exit_code`` is what a marked one ends with, None for all others."""

    page: str
    line: int
    language: str
    text: str
    exit_code: int | None = None

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> tuple[str, ...]:
        """Each on one line, as it would be typed; comments are still there."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return tuple(line.strip() for line in lines if line.strip())


def pages(root: Path = ROOT) -> tuple[Path, ...]:
    """README.md, then docs/ in the order of its index, then what the index does not name."""
    index = root / "docs" / "README.md"
    named = [(index.parent / link).resolve() for link in _LINK.findall(_read(index))]
    others = sorted((root / "docs").glob("*.md"))
    found = [root / "README.md", *named, *others]
    # Without the change log, which speaks of what is gone.
    return tuple(
        dict.fromkeys(page for page in found if page.exists() and page.name != "CHANGELOG.md")
    )


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def blocks(text: str, page: str) -> tuple[Block, ...]:
    """The fenced blocks of a page. Raises ValueError for an unknown mark or an open fence."""
    found: list[Block] = []
    opened: re.Match[str] | None = None
    start, inside, before = 0, [""], ""
    for number, line in enumerate(text.splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is None and fence:
            opened, start, inside = fence, number, []
            exit_code = _exit_code(before, f"{page}:{number}")
        elif opened is not None and fence and not fence["language"]:
            body = "\n".join(entry.removeprefix(opened["indent"]) for entry in inside)
            found.append(Block(page, start, opened["language"], body, exit_code))
            opened = None
        elif opened is not None:
            inside.append(line)
        elif _DIRECTIVE.search(before) and not _DIRECTIVE.search(line):
            raise ValueError(f"{page}:{number}: no block follows {before.strip()}")
        before = line
    if opened is not None:
        raise ValueError(f"{page}:{start}: this block does not end")
    return tuple(found)


def _exit_code(before: str, where: str) -> int | None:
    directive = _DIRECTIVE.search(before)
    if directive is None:
        return None
    run = _RUN.fullmatch(directive[1])
    if run is None:
        raise ValueError(f"{where}: unknown mark {before.strip()}")
    return int(run[1] or 0)


def all_blocks(root: Path = ROOT) -> tuple[Block, ...]:
    return tuple(
        block for page in pages(root) for block in blocks(_read(page), str(page.relative_to(root)))
    )


def simple_commands(line: str) -> Iterator[list[str]]:
    """The words of each command of a line: without comments, redirections and variables."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    command: list[str] = []
    redirected = False
    for word in lexer:
        if redirected:
            redirected = False
        elif word and set(word) <= set("<>"):
            redirected = True
        elif word and set(word) <= set("|&;()"):
            yield from _named(command)
            command = []
        else:
            command.append(word)
    yield from _named(command)


def _named(command: list[str]) -> Iterator[list[str]]:
    while command and (command[0] == "do" or _ASSIGNMENT.match(command[0])):
        command = command[1:]
    if command:
        yield command


def problem(command: Sequence[str], root: Path = ROOT) -> str | None:
    """What is wrong with a command, None if nothing is. Nothing is run."""
    program, *arguments = command
    if program.startswith("."):  # of the checkout
        program = Path(program).name
        if (lost := _missing([command[0]], root)) and not command[0].startswith(".venv/"):
            return lost
    if program in _SHELL_WORDS | _NOT_OURS:
        return None
    check = _CHECKS.get(program)
    if check is None and program == command[0]:
        return f"nothing checks the program {program}"
    return check(arguments, root) if check else None


def parse(arguments: Sequence[str], _root: Path = ROOT) -> str | None:
    """What the real command line says against ``arguments``. No command is called."""
    group: Any = typer.main.get_command(app)
    if not arguments or arguments[0] not in group.commands:
        return f"there is no command {arguments[0] if arguments else ''}".rstrip()
    name, *rest = arguments
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            context = group.commands[name].make_context(name, list(rest))
    except typer.Exit:  # of --help
        return None
    except TyperException as error:
        return str(error.format_message() if hasattr(error, "format_message") else error)
    try:
        _check_values(context.params)
    except DeployError as error:
        return str(error)
    return None


def _check_values(params: dict[str, Any]) -> None:
    """What commands check of their options first, for those whose type is just text."""
    model = params.get("model")
    if "model_option" in params:
        model = named_model(model, params["model_option"])
    if model:
        zoo.entry(model)
    if target := params.get("target"):
        Targets.named(target)
    limits.parse(params.get("fail_if") or (), CLASSIFICATION)
    devices = params.get("where") or params.get("device") or ()
    for device in [devices] if isinstance(devices, str) else devices:
        parse_address(device)


def _make(arguments: Sequence[str], root: Path) -> str | None:
    targets = set(re.findall(r"^([\w-]+):(?!=)", _read(root / "Makefile"), re.MULTILINE))
    unknown = [word for word in arguments if "=" not in word and word not in targets]
    return f"the Makefile has no target {unknown[0]}" if unknown else None


def _script(arguments: Sequence[str], root: Path) -> str | None:
    """A script of ours, and that its text names the options. ``--`` ends them."""
    script, *rest = arguments
    if problem_ := _missing([script], root):
        return problem_
    own = rest[: rest.index("--")] if "--" in rest else rest
    text = _read(root / script)
    for option in (word.partition("=")[0] for word in own if word.startswith("-")):
        if f'"{option}"' not in text:
            return f"{script} has no {option}"
    after = rest[len(own) + 1 :]
    return problem(after, root) if after else None


def _missing(paths: Sequence[str], root: Path) -> str | None:
    lost = [path for path in paths if not (root / path).exists()]
    return f"there is no {lost[0]}" if lost else None


def _pip(arguments: Sequence[str], root: Path) -> str | None:
    text = _read(root / "pyproject.toml")
    for word in arguments:
        if word.endswith(".txt") and (problem_ := _missing([word], root)):
            return problem_
        extras = re.search(r"\[(.+)\]$", word)
        for extra in extras[1].split(",") if extras else ():
            if not re.search(rf"^{extra} = \[", text, re.MULTILINE):
                return f"there is no extra {extra}"
    return None


def _dask(arguments: Sequence[str], _root: Path) -> str | None:
    try:
        import click
        from distributed.cli import dask_scheduler, dask_worker
    except ImportError:  # of the extra `cluster`
        return None
    mains = {"scheduler": dask_scheduler.main, "worker": dask_worker.main}
    name, *rest = arguments
    if name not in mains:
        return f"there is no dask {name}"
    try:
        files = [word for word in rest if word.endswith((".pem", ".key"))]
        # Files of certificates have to exist, which these do not.
        words = [os.devnull if word in files else word for word in rest]
        mains[name].make_context(name, words)
    except click.ClickException as error:
        return error.format_message()
    return None


def _pytest(arguments: Sequence[str], root: Path) -> str | None:
    paths = [word.partition("::")[0] for word in arguments if word.startswith("tests")]
    return _missing(paths, root)


_CHECKS: dict[str, Callable[[Sequence[str], Path], str | None]] = {
    "mnv4-deploy": parse,
    "make": _make,
    "python": _script,
    "pytest": _pytest,
    "pip": _pip,
    "dask": _dask,
}


def problems(found: Sequence[Block], root: Path = ROOT) -> list[str]:
    """Everything that is wrong with the command lines of blocks, with page and line."""
    return [
        f"{block.where}: {' '.join(command)}: {said}"
        for block in found
        if block.language in SHELL
        for line in block.commands
        for command in simple_commands(line)
        if (said := problem(command, root))
    ]


def run(found: Sequence[Block], folder: Path, *, verbose: bool = False) -> list[str]:
    """Run the marked blocks in ``folder``; what failed, with its output."""
    failed: list[str] = []
    environment = _environment(folder)
    for block in found:
        if block.exit_code is None:
            continue
        shell = block.language in SHELL
        program = ["sh", "-c"] if shell else [sys.executable, "-c"]
        for text in block.commands if shell else (block.text,):
            print(f"{block.where}  {text.splitlines()[0]}", flush=True)
            start = time.monotonic()
            done = subprocess.run(
                [*program, text],
                cwd=folder / "work",
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            said = done.stdout + done.stderr
            seconds = time.monotonic() - start
            print(f"    {seconds:.0f} s, exit code {done.returncode}", flush=True)
            if verbose:
                print(said, flush=True)
            if done.returncode != block.exit_code:
                failed.append(f"{block.where}: {text}\n{said}")
    return failed


def _environment(folder: Path) -> dict[str, str]:
    """That of this process, with ``mnv4-deploy`` run by this Python and nothing from elsewhere."""
    (folder / "work").mkdir()
    (folder / "bin").mkdir()
    command = folder / "bin" / "mnv4-deploy"
    command.write_text(
        f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m mnv4_deploy "$@"\n', encoding="utf-8"
    )
    command.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{command.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "MNV4_DEPLOY_CACHE": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="only list what would run")
    parser.add_argument("--verbose", action="store_true", help="show what the commands print")
    options = parser.parse_args()
    found = all_blocks()
    failed = problems(found)
    marked = [block for block in found if block.exit_code is not None]
    if options.list:
        print(*(f"{b.where}  {line}" for b in marked for line in b.commands), sep="\n")
    elif not failed:
        with tempfile.TemporaryDirectory(prefix="docs-check-") as folder:
            failed = run(marked, Path(folder), verbose=options.verbose)
    print(*failed, sep="\n", end="\n" if failed else "")
    count = sum(len(block.commands) for block in found if block.language in SHELL)
    print(f"{count} command lines on {len(pages())} pages, {len(failed)} of them wrong.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
