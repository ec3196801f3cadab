"""README.md and docs/ say what is so: links, paths, options, command lines, Python."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

import mnv4_deploy
from mnv4_deploy.cli import config
from mnv4_deploy.cli.app import app
from tests import docs_commands
from tests.docs_commands import ROOT, Block

PAGES = docs_commands.pages()
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
MAX_README_LINES = 200
# The page of each command; options that come with --device are on that of devices.
PAGE_OF = {
    "cache": "docs/files-and-network.md",
    "machine": "docs/profile.md",
    "roofline": "docs/profile.md",
    "parity": "docs/device.md",
}
DEVICE_PAGE = "docs/device.md"
FOLDERS = ("mnv4_deploy", "models", "exporters", "profiles", "tests", "benchmarks", "docs", ".ci")
# Files that users make.
THEIRS = {config.CONFIG}
# Options of others that pages speak of.
FOREIGN_OPTIONS = {"--help"}
# Those of the main command, before the name of one.
MAIN_OPTIONS: set[str] = {
    name
    for entry in typer.main.get_command(app).params
    for name in entry.opts
    if name.startswith("--")
}


@cache
def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@cache
def prose(name: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", text(name), flags=re.MULTILINE | re.DOTALL)


def spans(name: str) -> list[str]:
    """What stands in backticks in a page."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(name))]


def blocks(name: str, *languages: str) -> list[Block]:
    found = docs_commands.blocks(text(name), name)
    return [block for block in found if block.language in languages]


def anchors(name: str) -> set[str]:
    """The names by which GitHub links to a page's headings."""
    titles = re.findall(r"^#+ (.+)$", prose(name), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def options(command: str) -> set[str]:
    return {name for entry in COMMANDS[command].params for name in entry.opts if name[0] == "-"}


def looks_like_a_path(span: str) -> bool:
    first, slash, _ = span.partition("/")
    if span in THEIRS or not re.fullmatch(r"\.?[\w.-]+(/[\w.*-]*)*", span):
        return False
    return bool(slash and first in FOLDERS) or bool(re.search(r"\.(py|md|toml)$", span))


def test_readme_is_short() -> None:
    assert len(text("README.md").splitlines()) <= MAX_README_LINES


def test_no_page_is_orphaned() -> None:
    links = set(re.findall(r"\]\(([^)#]+)", text("docs/README.md")))
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages <= links
    assert "docs/README.md" in re.findall(r"\]\(([^)#]+)", text("README.md"))


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(name)):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(str(target.resolve().relative_to(ROOT))), link


@pytest.mark.parametrize("name", NAMES)
def test_paths_exist(name: str) -> None:
    lost = [span for span in spans(name) if looks_like_a_path(span) and not any(ROOT.glob(span))]
    assert not lost


@pytest.mark.parametrize("name", NAMES)
def test_names_are_in_the_files_they_are_said_to_be_in(name: str) -> None:
    """Of `models/zoo.py` (`FAMILIES`)."""
    for path, names in re.findall(r"`([\w/.-]+\.\w+)`\s+\(((?:`\w+`(?:, )?)+)\)", prose(name)):
        for word in re.findall(r"\w+", names):
            assert re.search(rf"\b{word}\b", text(path)), f"{path} has no {word}"


@pytest.mark.parametrize("name", NAMES)
def test_dotted_names_exist(name: str) -> None:
    for span in spans(name):
        if dotted := re.match(r"mnv4_deploy(\.\w+)+", span):
            assert _resolves(dotted[0]), span


def _resolves(dotted: str) -> bool:
    parts = dotted.split(".")
    found: Any = mnv4_deploy
    for count, part in enumerate(parts[1:], 2):
        if not hasattr(found, part):
            try:
                importlib.import_module(".".join(parts[:count]))
            except ModuleNotFoundError:
                return False
        found = getattr(found, part)
    return True


@pytest.mark.parametrize("name", NAMES)
def test_options_in_prose_are_options(name: str) -> None:
    known = set().union(*map(options, COMMANDS)) | FOREIGN_OPTIONS | MAIN_OPTIONS
    for span in spans(name):
        words = span.removeprefix("mnv4-deploy ").split()
        if words[0] in COMMANDS:
            allowed = options(words[0]) | FOREIGN_OPTIONS
        elif words[0].startswith("--"):
            allowed = known
        else:
            continue
        assert {word for word in words if word.startswith("--")} <= allowed, span


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_on_its_page(command: str) -> None:
    page = PAGE_OF.get(command, f"docs/{command}.md")
    told = {
        option
        for name in (page, DEVICE_PAGE)
        for span in spans(name)
        for option in re.findall(r"--[\w-]+", span)
    }
    untold = options(command) - told
    assert untold == set()


def test_every_option_of_the_main_command_is_in_the_readme() -> None:
    told = {word for span in spans("README.md") for word in re.findall(r"--[\w-]+", span)}
    assert told >= MAIN_OPTIONS - FOREIGN_OPTIONS


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_of_the_help_are_taken_by_the_real_one(command: str) -> None:
    (example,) = re.findall(r"^ +(mnv4-deploy .*)$", COMMANDS[command].epilog, re.MULTILINE)
    assert example.split()[1] == command
    assert _problems(example) == []


@pytest.mark.parametrize("name", NAMES)
def test_command_lines_are_taken_by_the_real_one(name: str) -> None:
    assert docs_commands.problems(blocks(name, *docs_commands.SHELL)) == []


def workflow_commands(workflow: str) -> list[str]:
    """What the steps of a workflow run, a command a line."""
    joined = re.sub(r"\\\n *", "", workflow)
    return re.findall(
        r"^ *(?:- )?(?:run: )?((?:mnv4-deploy|pip|pytest) .*)$", joined, re.MULTILINE
    )


def test_the_commands_of_workflows_are_taken_by_the_real_one() -> None:
    shown = [block.text for name in NAMES for block in blocks(name, "yaml")]
    ours = [path.read_text(encoding="utf-8") for path in ROOT.glob(".github/workflows/*.yml")]
    commands = [line for workflow in (*shown, *ours) for line in workflow_commands(workflow)]
    ran = {line.split()[1] for line in commands if line.startswith("mnv4-deploy")}
    assert ran >= {"export", "drift", "compare", "models"}
    assert [said for line in commands if "--version" not in line for said in _problems(line)] == []


def test_the_wheel_of_torch_that_pages_and_the_image_install_is_the_pinned_one() -> None:
    (pinned,) = re.findall(r"^torch==.*$", text("constraints.txt"), re.MULTILINE)
    for name in ("docs/install.md", "docs/gate-in-ci.md"):
        assert set(re.findall(r"torch==[\d.]+", text(name))) == {pinned}
    assert "constraints.txt" in text("Dockerfile")


@pytest.mark.parametrize("name", NAMES)
def test_python_compiles_and_uses_what_there_is(name: str) -> None:
    for block in blocks(name, "python"):
        for node in ast.walk(ast.parse(block.text, block.where)):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "mnv4_deploy"
            ):
                assert hasattr(mnv4_deploy, node.attr), f"{block.where}: {node.attr}"


def test_blocks_say_their_language() -> None:
    bare = [block.where for name in NAMES for block in blocks(name, "")]
    assert not bare


def test_the_readme_shows_a_session_that_docs_check_runs() -> None:
    (session,) = (block for block in blocks("README.md", "console"))
    assert session.exit_code == 0
    assert session.commands == ("mnv4-deploy export --model hybrid-m --int8",)


def test_every_folder_of_the_package_is_in_the_layout() -> None:
    (layout,) = blocks("docs/contributing.md", "text")
    listed = [line.split()[0].rstrip("/") for line in layout.text.splitlines()]
    assert [folder for folder in listed if not (ROOT / folder).is_dir()] == []
    project = tomllib.loads(text("pyproject.toml"))
    assert set(project["tool"]["setuptools"]["package-dir"].values()) <= set(listed)


# The checker itself.

WRONG = {
    "mnv4-deploy export --model hybrid-m --int9": "No such option: --int9",
    "mnv4-deploy export --int8": "No model is named",
    "mnv4-deploy export hybrid-m --model conv-s": "two models",
    "mnv4-deploy profile m.tflite --top many": "Invalid value for '--top'",
    "mnv4-deploy models a b": "unexpected extra argument",
    "mnv4-deploy quantize m.onnx": "no command quantize",
    "mnv4-deploy": "no command",
    "mnv4-deploy export --model no-such-model": "no model 'no-such-model'",
    "mnv4-deploy export --model hybrid-m --target tpu": "tpu",
    'mnv4-deploy drift --reference a --candidate b --fail-if "speed > 1"': "speed",
    "mnv4-deploy device telnet://pi": "telnet://pi",
    "mnv4-deploy models | mnv4-deploy inspect --fast m.tflite > y": "No such option: --fast",
    "mnv4-deploy models && mnv4-deploy models --all": "No such option: --all",
    "HF_HUB_OFFLINE=1 mnv4-deploy models --all": "No such option: --all",
    "make everything": "no target everything",
    "python benchmarks/no_such_script.py": "no benchmarks/no_such_script.py",
    "python benchmarks/accuracy.py --no-such": "has no --no-such",
    "pip install '.[no-such]'": "no extra no-such",
    ".venv/bin/pytest tests/no_such_folder": "no tests/no_such_folder",
    "curl example.com": "nothing checks the program curl",
}
RIGHT = (
    "mnv4-deploy models  # all --of --them",
    "mnv4-deploy export --help",
    "mnv4-deploy export hybrid-m --int8",
    "mnv4-deploy drift --reference a --candidate b --fail-if 'top1_drop > 0.5' > drift.txt",
    "mnv4-deploy compare a.tflite b.tflite --device ssh://pi --device adb",
    "make test PYTEST_ARGS='tests/test_cli.py -k help'",
    "# a remark",
)


def _problems(line: str) -> list[str]:
    return docs_commands.problems([Block("page.md", 1, "sh", line)])


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_command_line_is_found(line: str) -> None:
    (found,) = _problems(line)
    assert WRONG[line] in found
    assert found.startswith("page.md:1: ")


@pytest.mark.parametrize("line", RIGHT)
def test_a_right_command_line_is_none(line: str) -> None:
    assert _problems(line) == []


def test_options_of_dask_are_checked() -> None:
    pytest.importorskip("distributed")
    assert _problems("dask scheduler --host 127.0.0.1") == []
    (found,) = _problems("dask worker tcp://127.0.0.1:8786 --no-such")
    assert "--no-such" in found


PAGE = """\
Text.

<!-- docs-check: run, exit 1 -->
```console
$ mnv4-deploy compare a.tflite b.tflite \\
    --fail-if-slower 1.05
1.20 times as slow $ mnv4-deploy
```

```sh
mnv4-deploy models   # all

mnv4-deploy models x
```
"""


def test_blocks_and_their_commands() -> None:
    session, script = docs_commands.blocks(PAGE, "page.md")
    assert session.where == "page.md:4"
    assert (session.exit_code, script.exit_code) == (1, None)
    (command,) = session.commands
    assert command.split()[-2:] == ["--fail-if-slower", "1.05"]
    assert len(script.commands) == 2


@pytest.mark.parametrize(
    "page",
    [
        "<!-- docs-check: rnu -->\n```sh\nls\n```\n",
        "<!-- docs-check: run -->\n\n```sh\nls\n```\n",
        "```sh\nls\n",
    ],
)
def test_marks_that_mean_nothing_are_refused(page: str) -> None:
    with pytest.raises(ValueError, match=r"page\.md:"):
        docs_commands.blocks(page, "page.md")


def test_marked_blocks_run_in_one_folder_and_others_do_not(tmp_path: Path) -> None:
    ran = [
        Block("page.md", 1, "sh", "mnv4-deploy --help > help.txt", 0),
        Block("page.md", 2, "python", "open('python.txt', 'w').close()", 0),
        Block("page.md", 3, "sh", "grep -q Usage help.txt && test -e python.txt", 0),
        Block("page.md", 4, "sh", "touch shown.txt"),
        Block("page.md", 5, "sh", "exit 1", 1),
    ]
    assert docs_commands.run(ran, tmp_path) == []
    assert not (tmp_path / "work" / "shown.txt").exists()


def test_a_marked_block_that_fails_is_told_with_its_output(tmp_path: Path) -> None:
    (failed,) = docs_commands.run(
        [Block("page.md", 1, "sh", "mnv4-deploy inspect missing.onnx", 0)], tmp_path
    )
    assert "page.md:1" in failed
    assert "missing.onnx does not exist" in failed
