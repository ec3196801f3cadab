import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mnv4_deploy.errors import OutputError
from mnv4_deploy.hashes import file_sha256
from mnv4_deploy.outputs import MANIFEST, check_free, staged, write_manifest
from mnv4_deploy.profiles.agent.bootstrap import OWNER, owner_mark
from tests.time_limit import PATIENCE_S


def _export(out, *, overwrite=False, manifest=MANIFEST, **files):
    """Publish files (``a_onnx="x"`` is a.onnx) and a manifest that lists them."""
    with staged(out, overwrite=overwrite, manifest=manifest) as folder:
        for name, content in files.items():
            (folder / name.replace("_", ".")).write_text(content)
        write_manifest(folder, {"made": sorted(files.values())}, name=manifest)


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
        (staging,) = (tmp_path / "out").iterdir()
        assert staging in folder.parents
        assert staging.name.startswith(".")


def test_manifest_leaves_first_and_arrives_last(earlier, monkeypatch):
    moves = []
    replace = Path.replace

    def watched(source, target):
        assert earlier in (source.parent, target.parent)
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
    "names",
    [
        ["../precious", "mine/c.onnx", ".."],
        ["/PRECIOUS", "", ".", "mine", "\0", None, 3, ["a.onnx"]],
        3,
        None,
    ],
)
def test_a_manifest_cannot_name_files_elsewhere(earlier, names):
    precious = earlier.parent / "precious"
    precious.write_text("not part of any export")
    others = (precious, earlier / "mine" / "c.onnx", earlier / "a.onnx")
    digests = [file_sha256(path) for path in others]
    document = json.loads((earlier / MANIFEST).read_text())
    if isinstance(names, list):
        document["files"] += [
            {"file": str(precious) if name == "/PRECIOUS" else name, "sha256": digest}
            for name in names
            for digest in digests
        ]
    else:
        document["files"] = names
        (earlier / "a.onnx").unlink()
    (earlier / MANIFEST).write_text(json.dumps(document))
    _export(earlier, overwrite=True, a_onnx="new a")
    files = _files(earlier)
    assert precious.read_text() == "not part of any export"
    assert files["mine/c.onnx"] == "the user's too"
    assert files["notes.txt"] == "the user's"
    assert files["a.onnx"] == "new a"


WEB_APP = '{"name": "My app", "start_url": "/", "files": [{"file": "index.html"}]}'


@pytest.mark.parametrize("name", [MANIFEST, "profile.json", "drift.json", "parity.json"])
@pytest.mark.parametrize(
    "content",
    [
        WEB_APP,
        '{"schema_version": 1, "files": [{"file": "index.html", "sha256": "SHA"}]}',
        '{"schema": "mnv4-deploy/sweep", "files": [{"file": "index.html", "sha256": "SHA"}]}',
        '{"tools": ["mnv4-deploy"], "files": [{"file": "index.html", "sha256": "SHA"}]}',
        "[]",
        "no JSON",
        "",
        "[" * 100_000,
    ],
)
def test_a_manifest_of_something_else_is_no_ones_to_replace(tmp_path, name, content):
    (tmp_path / "index.html").write_text("<html>")
    content = content.replace("SHA", file_sha256(tmp_path / "index.html"))
    (tmp_path / name).write_text(content)
    before = _files(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="move it away"):
            check_free(tmp_path, overwrite=overwrite, manifest=name)
        with pytest.raises(OutputError, match="move it away"):
            _export(tmp_path, overwrite=overwrite, manifest=name, a_onnx="new")
    assert _files(tmp_path) == before


def test_a_file_that_was_changed_since_is_the_users(earlier):
    (earlier / "b.tflite").write_text("with metadata of the user's")
    _export(earlier, overwrite=True, a_onnx="new a")
    assert _files(earlier)["b.tflite"] == "with metadata of the user's"
    before = _files(earlier)
    with pytest.raises(OutputError, match=r"b\.tflite exists"):
        _export(earlier, overwrite=True, b_tflite="new b")
    assert _files(earlier) == before


def test_a_listed_name_proves_nothing_without_its_sum(earlier):
    (earlier / "thesis.docx").write_text("years of work")
    document = json.loads((earlier / MANIFEST).read_text())
    document["files"] += [{"file": "thesis.docx"}, {"file": "thesis.docx", "sha256": "0" * 64}]
    (earlier / MANIFEST).write_text(json.dumps(document))
    _export(earlier, overwrite=True, a_onnx="new a")
    assert _files(earlier)["thesis.docx"] == "years of work"


def test_links_are_not_ours(earlier, tmp_path):
    kept = tmp_path / "kept.onnx"
    (earlier / "a.onnx").rename(kept)
    (earlier / "a.onnx").symlink_to(kept)
    (earlier / "d.onnx").symlink_to(tmp_path / "nowhere")
    for name in ("a_onnx", "d_onnx"):
        with pytest.raises(OutputError, match="move it away"):
            _export(earlier, overwrite=True, **{name: "new"})
    assert kept.read_text() == "old a"
    assert (earlier / "a.onnx").is_symlink() and (earlier / "d.onnx").is_symlink()


def test_a_manifest_that_never_ends_is_not_read(tmp_path):
    os.mkfifo(tmp_path / MANIFEST)
    with pytest.raises(OutputError, match="move it away"):
        check_free(tmp_path, overwrite=True)


def test_an_export_of_an_earlier_version_is_known_by_its_tools(earlier):
    document = json.loads((earlier / MANIFEST).read_text())
    del document["schema"]
    document["tools"] = {"mnv4-deploy": "0.1.0", "torch": "2.13.0"}
    (earlier / MANIFEST).write_text(json.dumps(document))
    _export(earlier, overwrite=True, c_onnx="new c")
    assert _files(earlier).keys() == {MANIFEST, "c.onnx", "notes.txt", "mine/c.onnx"}


def test_a_file_of_the_user_with_a_new_files_name(earlier):
    with pytest.raises(OutputError, match="already holds"):
        check_free(earlier, overwrite=False, names=["notes.txt"])
    with pytest.raises(OutputError, match=r"notes\.txt exists"):
        check_free(earlier, overwrite=True, names=["notes.txt"])
    with pytest.raises(OutputError, match="mine is a folder"):
        check_free(earlier, overwrite=True, names=["mine"])
    (earlier / MANIFEST).unlink()
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"notes\.txt exists"):
            check_free(earlier, overwrite=overwrite, names=["notes.txt"])


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
        write_manifest(folder, {})
    assert _files(out)["a.onnx"] == "first"
    _export(out, overwrite=True, a_onnx="third")
    assert _files(out)["a.onnx"] == "third"


_CHILD = textwrap.dedent("""
    import pathlib, signal, sys, time
    import typer
    from mnv4_deploy.cli import app
    from mnv4_deploy.pipelines import export as pipeline
    from mnv4_deploy.outputs import staged

    def export(request, progress):
        with staged(request.out, overwrite=request.overwrite) as folder:
            (folder / "a.onnx").write_text("half of it")
            print("staged", flush=True)
            time.sleep(3600)

    # A job that a shell put in the background starts with Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    pipeline.export = export
    app.main(["export", "--model", "conv-s", "--out", sys.argv[1], "--overwrite"])
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
    _, err = child.communicate(timeout=PATIENCE_S)
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


OLD = {"a.onnx": "old a", "b.tflite": "old b", "made": ["old a", "old b"]}
NEW = {"a.onnx": "new a", "c.onnx": "new c", "made": ["new a", "new c"]}


def _dying(out, calls):
    """Export in a process that ends, as by SIGKILL, before the call number ``calls`` that changes
    what is in a folder; whether it came to its end before that."""
    if child := os.fork():
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 9)
        return code == 0

    left = calls

    def dying(function):
        def call(*arguments, **options):
            nonlocal left
            left -= 1
            if left < 0:
                os._exit(9)
            return function(*arguments, **options)

        return call

    try:
        for name in ("replace", "unlink", "mkdir", "rmdir", "write_text"):
            setattr(Path, name, dying(getattr(Path, name)))
        # What shutil.rmtree calls.
        os.unlink, os.rmdir = dying(os.unlink), dying(os.rmdir)
        _export(out, overwrite=True, a_onnx="new a", c_onnx="new c")
        os._exit(0)
    finally:
        os._exit(1)


def _state(out):
    """What is under final names, of the manifest what it says was made; the user's is there."""
    files = {name: text for name, text in _files(out).items() if not name.startswith(".")}
    assert files.pop("notes.txt") == "the user's"
    assert files.pop("mine/c.onnx") == "the user's too"
    if manifest := files.pop(MANIFEST, None):
        files["made"] = json.loads(manifest)["made"]
    return files


def test_killed_at_any_moment_the_next_run_finds_the_old_files_or_the_new(earlier, tmp_path):
    """Also where the run that puts things right is killed itself, at any moment."""
    calls, seen, done = 0, set(), False
    while not done:
        out = tmp_path / f"killed-{calls}"
        shutil.copytree(earlier, out)
        done = _dying(out, calls)
        again = tmp_path / f"again-{calls}"
        shutil.copytree(out, again)
        _dying(again, calls % 7)
        for folder in (out, again):
            with pytest.raises(OutputError, match="already holds"):
                check_free(folder, overwrite=False)
            state = _state(folder)
            assert state in (OLD, NEW)
            seen.add(state["a.onnx"])
            assert not [path for path in folder.glob(".*") if any(path.iterdir())]
        calls += 1
    assert seen == {"old a", "new a"}
    assert calls > 15


def test_what_took_an_earlier_files_name_after_a_kill_is_not_replaced(earlier):
    calls = 0
    while (earlier / "b.tflite").exists():  # until a run is killed after it was set aside
        check = json.loads((earlier / MANIFEST).read_text())["made"] if calls else None
        assert check in (None, ["old a", "old b"])
        assert not _dying(earlier, calls)
        calls += 1
        if (earlier / "b.tflite").exists():
            with pytest.raises(OutputError, match="already holds"):
                check_free(earlier, overwrite=False)
    (earlier / "b.tflite").write_text("the user's own b")
    for _ in range(2):
        with pytest.raises(OutputError, match="move one of them away"):
            _export(earlier, overwrite=True, a_onnx="newest")
    assert (earlier / "b.tflite").read_text() == "the user's own b"
    (earlier / "b.tflite").rename(earlier.parent / "b")
    with pytest.raises(OutputError, match="already holds"):
        check_free(earlier, overwrite=False)
    assert _state(earlier) == OLD


@pytest.mark.parametrize("mark", [None, "", "[]", '{"tool": "mnv4-deploy"}', '{"pid": 1}'])
def test_a_folder_of_such_a_name_without_our_mark_stays(earlier, mark):
    folder = earlier / ".mnv4-deploy-thesis"
    folder.mkdir()
    (folder / "chapter1.tex").write_text("the user's")
    if mark is not None:
        (folder / OWNER).write_text(mark)
    linked = earlier.parent / "linked"
    linked.mkdir()
    (linked / OWNER).write_text(json.dumps(owner_mark()))
    (earlier / ".mnv4-deploy-link").symlink_to(linked)
    _export(earlier, overwrite=True, a_onnx="new")
    assert (folder / "chapter1.tex").read_text() == "the user's"
    assert (linked / OWNER).exists()


def test_files_are_synced_before_they_get_their_names(earlier, monkeypatch):
    events = []
    replace, fsync = Path.replace, os.fsync

    def synced(descriptor):
        events.append(("sync", os.path.realpath(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def moved(source, target):
        events.append(("move", str(source)))
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", moved)
    _export(earlier, overwrite=True, a_onnx="new a", c_onnx="new c")
    first_move = next(i for i, (what, _) in enumerate(events) if what == "move")
    before = {Path(path).name for what, path in events[:first_move] if what == "sync"}
    assert {"a.onnx", "c.onnx", MANIFEST, "journal.json", "new"} <= before
    assert events[-1] == ("sync", str(earlier))


def test_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_sha256(tmp_path / "abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
