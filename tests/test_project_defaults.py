"""mnv4-deploy.toml: what it changes, what wins over it, and what it is refused for."""

from pathlib import Path
from typing import Any

import pytest
import typer

from mnv4_deploy.cli import app as cli
from mnv4_deploy.cli import config
from mnv4_deploy.errors import InputError
from mnv4_deploy.exporters.records import ExportRequest
from mnv4_deploy.profiles.records.profile import MeasureRequest
from tests import docs_commands

PAGE = docs_commands.ROOT / "docs" / "project-defaults.md"
COMMANDS: Any = typer.main.get_command(cli.app)


class ReachedError(Exception):
    """The command got to work, with this request."""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run a command line below a file with ``text``: exit code, what it said, its request."""
    monkeypatch.chdir(tmp_path)
    reached: list[Any] = []

    def stop(request, *_):
        reached.append(request)
        raise InputError("reached")

    for module in ("export", "profile", "drift"):
        monkeypatch.setattr(f"mnv4_deploy.pipelines.{module}.{module}", stop)

    def _run(text: str | bytes | None, *words: str):
        reached.clear()
        if text is not None:
            content = text.encode() if isinstance(text, str) else text
            (tmp_path / config.CONFIG).write_bytes(content)
        code: Any = 0
        try:
            cli.main(list(words))
        except SystemExit as stopped:
            code = stopped.code
        said = capsys.readouterr()
        return code, said.out, said.err, reached[0] if reached else None

    return _run


PROFILE = "[profile]\nthreads = 4\nmax-seconds = 3\nshape = ['x=1x3x8x8', 'y=1x2']\ncpus = 0\n"


def measured(found) -> Any:
    return found[3].measure


def test_options_get_the_defaults_of_the_file(run):
    request = measured(run(PROFILE, "profile", "m.onnx"))
    assert (request.threads, request.cpus) == (4, (0,))
    assert isinstance(request.max_seconds, float) and request.max_seconds == 3
    assert request.shapes == {"x": (1, 3, 8, 8), "y": (1, 2)}
    assert request.runs == MeasureRequest("m.onnx").runs


def test_the_command_line_wins(run):
    request = measured(run(PROFILE, "profile", "m.onnx", "--threads", "2", "--shape", "1x4"))
    assert request.threads == 2
    assert request.shapes == {"": (1, 4)}


def test_flags_paths_and_what_is_called_otherwise_in_python(run):
    text = "[export]\nint8 = true\nformat = 'tflite'\neval-images = 5\nsize = 64\nout = 'there'\n"
    request: ExportRequest = run(text, "export", "conv-s")[3]
    assert (request.int8, request.formats, request.evaluation_images) == (True, ("tflite",), 5)
    assert (request.size, request.out) == ((64, 64), Path("there"))


def test_what_a_command_cannot_do_without_may_be_in_the_file(run):
    text = "[drift]\nreference = 'a.onnx'\ncandidate = 'b.onnx'\nfail-if = ['top1_drop > 0.5']\n"
    request = run(text, "drift")[3]
    assert (request.reference, request.candidate) == ("a.onnx", "b.onnx")
    assert request.fail_if == ("top1_drop > 0.5",)


def test_a_file_is_left_unread(run):
    assert measured(run(PROFILE, "--no-config", "profile", "m.onnx")).threads == 1
    assert run("[", "--no-config", "profile", "m.onnx")[3] is not None


def test_only_the_current_folder_counts(run, tmp_path, monkeypatch):
    (tmp_path / config.CONFIG).write_text(PROFILE)
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert measured(run(None, "profile", "m.onnx")).threads == 1


def test_verbose_says_which_file(run, tmp_path):
    path = str(tmp_path / config.CONFIG)
    assert path in run(PROFILE, "-v", "profile", "m.onnx")[2]
    assert path not in run(PROFILE, "profile", "m.onnx")[2]


def test_json_of_the_file_is_json_of_errors_too(run):
    code, out, _, _ = run("[profile]\njson = true\n", "profile", "m.onnx")
    assert code == 2 and '"error"' in out


@pytest.mark.parametrize("text", [PROFILE, "[profil", "[profil]\n"])
def test_help_is_the_same_everywhere(run, text):
    plain = run(None, "profile", "--help")
    assert run(text, "profile", "--help") == plain
    assert run(text, "--help")[0] == 0


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[profil]\nthreads = 1\n", ("[profil]", "profile")),
        ("threads = 1\n", ("threads",)),
        ("drift = 1\n", ("drift",)),
        ("[profile]\nthread = 1\n", ("[profile]", "thread ", "threads")),
        ("[profile]\nfile = 'm.onnx'\n", ("[profile]", "file ")),
        ("[profile]\nhelp = true\n", ("[profile]", "help ")),
        ("[export]\nmodel = 'conv-s'\n", ("[export]", "model ")),
        ("[profile]\nmax_seconds = 1\n", ("[profile]", "max_seconds", "max-seconds")),
        ("[profile]\nthreads = '4'\n", ("[profile]", "threads", "'4'", "whole number")),
        ("[profile]\nthreads = true\n", ("[profile]", "threads", "whole number")),
        ("[profile]\nthreads = 1.5\n", ("[profile]", "threads", "whole number")),
        ("[profile]\noverwrite = 'no'\n", ("[profile]", "overwrite", "true or false")),
        ("[profile]\noverwrite = 1\n", ("[profile]", "overwrite", "true or false")),
        ("[profile]\nmax-seconds = true\n", ("[profile]", "max-seconds", "a number")),
        ("[profile]\nout = 3\n", ("[profile]", "out", "path")),
        ("[profile]\nstatistic = ['min']\n", ("[profile]", "statistic", "text")),
        ("[drift]\nfail-if = 'top1_drop > 1'\n", ("[drift]", "fail-if", "list")),
        ("[drift]\nfail-if = [[1]]\n", ("[drift]", "fail-if", "list")),
        ("[profile\n", ("TOML",)),
        (b"\xff\xfe[profile]", ("TOML",)),
    ],
)
def test_what_cannot_be_used_is_one_sentence(run, text, named):
    """Of other commands' tables too: nobody waits for a mistake until that command runs."""
    code, out, err, request = run(text, "profile", "m.onnx")
    assert (code, out, request) == (2, "", None)
    assert err.count("\n") == 1
    for part in (config.CONFIG, *named):
        assert part in err


def test_a_folder_of_that_name_is_refused(run, tmp_path):
    (tmp_path / config.CONFIG).mkdir()
    code, _, err, _ = run(None, "profile", "m.onnx")
    assert code == 2 and config.CONFIG in err


def test_a_link_that_leads_nowhere_is_refused(run, tmp_path):
    (tmp_path / config.CONFIG).symlink_to("nowhere.toml")
    code, _, err, _ = run(None, "profile", "m.onnx")
    assert code == 2 and config.CONFIG in err


def test_a_folder_that_is_gone_has_none(run, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert measured(run(None, "profile", "m.onnx")).threads == 1
    monkeypatch.chdir(tmp_path)


def test_every_option_of_every_command_can_be_in_the_file():
    """Whatever its type is: a value of another kind is refused, not a crash."""
    for name, command in COMMANDS.commands.items():
        options = {o.lstrip("-") for p in command.params for o in p.opts if o.startswith("--")}
        for option in options - {"help"} - ({"model"} if name == "export" else set()):
            with pytest.raises(InputError, match=option):
                config._values(name, {option: {}}, command)


def test_the_file_of_the_page_is_taken(tmp_path):
    (block,) = (
        block
        for block in docs_commands.blocks(PAGE.read_text(encoding="utf-8"), PAGE.name)
        if block.language == "toml"
    )
    path = tmp_path / config.CONFIG
    path.write_text(block.text, encoding="utf-8")
    values = config.project_defaults(path, COMMANDS.commands)
    assert values["compare"] == {"threads": 4, "fail_if_slower": 1.05}
