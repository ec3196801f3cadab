import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mnv4_deploy.errors import OutputError
from mnv4_deploy.outputs import MANIFEST, check_free, sha256, staged


def _export(out, *, overwrite=False, **files):
    """Publish files (``a_onnx="x"`` is a.onnx) and a manifest that lists them."""
    with staged(out, overwrite=overwrite) as folder:
        names = {name.replace("_", "."): content for name, content in files.items()}
        for name, content in names.items():
            (folder / name).write_text(content)
        manifest = {"files": [{"file": name} for name in names]}
        (folder / MANIFEST).write_text(json.dumps(manifest))


def _files(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()
    }


@pytest.fixture
def earlier(tmp_path):
    out = tmp_path / "out"
    _export(out, a_onnx="old a", b_tflite="old b")
    (out / "notes.txt").write_text("the user's")
    (out / "mine").mkdir()
    (out / "mine" / "c.onnx").write_text("the user's too")
    return out


def test_new_folder(tmp_path):
    out = tmp_path / "deep" / "er"
    _export(out, a_onnx="a")
    assert _files(out).keys() == {"a.onnx", MANIFEST}
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []


def test_nothing_under_a_final_name_before_the_end(tmp_path):
    with staged(tmp_path / "out", overwrite=False) as folder:
        (folder / "a.onnx").write_text("a")
        assert [p.name for p in (tmp_path / "out").iterdir()] == [folder.name]
        assert folder.name.startswith(".")


def test_manifest_leaves_first_and_arrives_last(earlier, monkeypatch):
    moves = []
    replace = Path.replace

    def watched(source, target):
        moves.append((source.parent == earlier, source.name))
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", watched)
    _export(earlier, overwrite=True, a_onnx="new")
    leaving = [name for left, name in moves if left]
    arriving = [name for left, name in moves if not left]
    assert leaving[0] == MANIFEST
    assert arriving == ["a.onnx", MANIFEST]
    assert moves.index((True, leaving[-1])) < moves.index((False, "a.onnx"))


def test_without_overwrite_nothing_changes(earlier):
    before = _files(earlier)
    with pytest.raises(OutputError, match="--overwrite"):
        _export(earlier, a_onnx="new")
    assert _files(earlier) == before


def test_overwrite_replaces_only_what_the_earlier_manifest_lists(earlier):
    _export(earlier, overwrite=True, a_onnx="new a", c_onnx="new c")
    files = _files(earlier)
    files.pop(MANIFEST)
    assert files == {
        "a.onnx": "new a",
        "c.onnx": "new c",
        "notes.txt": "the user's",
        "mine/c.onnx": "the user's too",
    }


@pytest.mark.parametrize(
    "manifest",
    [
        '{"files": [{"file": "../precious"}, {"file": "mine/c.onnx"}, {"file": ".."}]}',
        '{"files": [{"file": "/PRECIOUS"}, {"file": ""}, {"file": "."}, {"file": "mine"}]}',
        '{"files": [{"name": "a.onnx"}]}',
        '{"files": 3}',
        "[]",
        "no JSON",
        "",
    ],
)
def test_a_manifest_cannot_name_files_elsewhere(earlier, manifest):
    precious = earlier.parent / "precious"
    precious.write_text("not part of any export")
    (earlier / MANIFEST).write_text(manifest.replace("/PRECIOUS", str(precious)))
    _export(earlier, overwrite=True, a_onnx="new a")
    files = _files(earlier)
    assert precious.read_text() == "not part of any export"
    assert files["mine/c.onnx"] == "the user's too"
    assert files["notes.txt"] == "the user's"
    assert files["a.onnx"] == "new a"


def test_a_file_of_the_user_with_a_new_files_name(earlier):
    with pytest.raises(OutputError, match="already holds"):
        check_free(earlier, overwrite=False, names=["notes.txt"])
    (earlier / MANIFEST).unlink()
    with pytest.raises(OutputError, match=r"notes\.txt exists"):
        check_free(earlier, overwrite=False, names=["notes.txt"])
    check_free(earlier, overwrite=True, names=["notes.txt"])
    with pytest.raises(OutputError, match="mine is a folder"):
        check_free(earlier, overwrite=True, names=["mine"])


def test_a_file_that_appears_during_the_export_is_not_replaced(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(OutputError, match="exists"), staged(out, overwrite=False) as folder:
        (folder / "a.onnx").write_text("new")
        (folder / MANIFEST).write_text("{}")
        (out / "a.onnx").write_text("somebody else's")
    assert _files(out) == {"a.onnx": "somebody else's"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, OSError])
def test_failure_leaves_nothing(tmp_path, error):
    out = tmp_path / "new" / "out"
    expected = OutputError if error is OSError else error
    with pytest.raises(expected), staged(out, overwrite=False) as folder:
        (folder / "a.onnx").write_text("half")
        raise error
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failure_leaves_the_earlier_export(earlier, error):
    before = _files(earlier)
    with pytest.raises(error), staged(earlier, overwrite=True) as folder:
        (folder / "a.onnx").write_text("half")
        raise error
    assert _files(earlier) == before


@pytest.mark.parametrize("failing_move", range(1, 7))
@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_failure_while_publishing_restores_the_earlier_export(
    earlier, monkeypatch, failing_move, error
):
    before = _files(earlier)
    replace, moves = Path.replace, []

    def failing(source, target):
        moves.append(source)
        if len(moves) == failing_move:
            raise error
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises((OutputError, KeyboardInterrupt)):
        _export(earlier, overwrite=True, a_onnx="new a", c_onnx="new c")
    assert len(moves) >= failing_move
    assert _files(earlier) == before


def test_two_exports_do_not_share_a_folder(tmp_path):
    out = tmp_path / "out"
    with staged(out, overwrite=False) as folder:
        (folder / "a.onnx").write_text("first")
        with pytest.raises(OutputError, match="Another run"):
            _export(out, overwrite=True, a_onnx="second")
        (folder / MANIFEST).write_text('{"files": [{"file": "a.onnx"}]}')
    assert _files(out)["a.onnx"] == "first"
    _export(out, overwrite=True, a_onnx="third")
    assert _files(out)["a.onnx"] == "third"


_CHILD = textwrap.dedent("""
    import pathlib, signal, sys, time
    import typer
    from mnv4_deploy import cli, export_records, pipeline
    from mnv4_deploy.outputs import staged

    def export(request, progress):
        with staged(request.out, overwrite=request.overwrite) as folder:
            (folder / "a.onnx").write_text("half of it")
            print("staged", flush=True)
            time.sleep(60)

    # A job that a shell put in the background starts with Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    pipeline.export = export
    cli.main(["export", "--model", "conv-s", "--out", sys.argv[1], "--overwrite"])
""")


def _killed(out, with_signal):
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "staged\n"
    child.send_signal(with_signal)
    _, err = child.communicate(timeout=20)
    return child.returncode, err


@pytest.mark.parametrize(("with_signal", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_process_cleans_up(tmp_path, earlier, with_signal, code):
    before = _files(earlier)
    message = "mnv4-deploy: interrupted; nothing was written.\n"
    assert _killed(tmp_path / "new" / "out", with_signal) == (code, message)
    assert not (tmp_path / "new").exists()
    assert _killed(earlier, with_signal) == (code, message)
    assert _files(earlier) == before


def test_killed_process_leaves_only_what_the_next_export_removes(earlier):
    before = _files(earlier)
    code, _ = _killed(earlier, signal.SIGKILL)
    assert code == -signal.SIGKILL
    left = set(_files(earlier)) - set(before)
    assert left
    assert all(name.startswith(".mnv4-deploy-") for name in left)
    assert {name: _files(earlier)[name] for name in before} == before
    _export(earlier, overwrite=True, a_onnx="new a")
    assert not [p for p in earlier.iterdir() if p.name.startswith(".")]


def test_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
