"""What ``drift`` leaves in --out when it is interrupted or killed: its progress, hidden, and all
that is the user's."""

import os
import re
import signal
import time
from pathlib import Path

import pytest

pytest.importorskip("onnx")

from tests.drift.gated_drift import kept, stopped
from tests.test_cli_drift import A_COLOUR, _pair, files, pictures, run  # noqa: F401

pytestmark = pytest.mark.usefixtures("no_child", "no_worker")


@pytest.fixture(scope="module")
def many(pictures, tmp_path_factory):  # noqa: F811
    """1,200 names of the 40 pictures."""
    root = tmp_path_factory.mktemp("many")
    for folder in pictures.iterdir():
        (root / folder.name).mkdir()
        for picture in folder.iterdir():
            for copy in range(30):
                os.link(picture, root / folder.name / f"{picture.stem}-{copy}.png")
    return root


@pytest.fixture
def out(tmp_path):
    """A folder with the user's things, some of them old and named as ours are."""
    out = tmp_path / "out"
    for name in ("thesis", "0123456789abcdef0123456789abcdef", ".mnv4-deploy-drift/notes"):
        (out / name).mkdir(parents=True)
        (out / name / "chapter1.tex").write_text("years of work")
        then = time.time() - 40 * 24 * 3600
        os.utime(out / name, (then, then))
    return out


def _theirs(out):
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("chapter1.tex"))


THEIRS = [
    ".mnv4-deploy-drift/notes/chapter1.tex",
    "0123456789abcdef0123456789abcdef/chapter1.tex",
    "thesis/chapter1.tex",
]


@pytest.mark.parametrize(
    ("with_signal", "code", "images", "total", "shard"),  # for the last see drift/shards.py
    [
        (signal.SIGINT, 130, "many", "1,200", 9),
        (signal.SIGTERM, 143, "pictures", "40", 8),
        (signal.SIGKILL, -signal.SIGKILL, "pictures", "40", 8),
    ],
)
def test_stopped_run_says_what_it_kept_and_goes_on(
    run,  # noqa: F811
    files,  # noqa: F811
    tmp_path,
    out,
    request,
    with_signal,
    code,
    images,
    total,
    shard,
):
    data = request.getfixturevalue(images)
    arguments = (*_pair(files), "--data", data, "--layer-images", "0", "--out", out)
    command = ("drift", *arguments, "--workers", 1)
    found, logged = stopped(command, tmp_path, out, 3, lambda p: p.send_signal(with_signal))
    assert found == code
    assert kept(out) == 3
    if with_signal != signal.SIGKILL:
        assert logged.count("\n") == 1
        told, of = re.findall(r"\d[\d,]*", logged.replace("mnv4-deploy", ""))
        assert (int(told), of) == (3 * shard, total)
    visible = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    assert visible == {"thesis", "0123456789abcdef0123456789abcdef"}
    assert _theirs(out) == THEIRS

    code, printed, _ = run(*arguments, "--workers", 1, "--json")
    assert code == 0
    assert f'"resumed_images": {3 * shard}' in printed
    assert kept(out) == 0
    assert _theirs(out) == THEIRS


def test_run_that_ended_well_or_was_refused_leaves_what_is_the_users(
    run,  # noqa: F811
    files,  # noqa: F811
    pictures,  # noqa: F811
    out,
):
    before = sorted(path.relative_to(out) for path in out.rglob("*"))
    arguments = (*_pair(files), "--data", pictures, *A_COLOUR, "--out", out)
    assert run(*arguments, "--fail-if", "no_such_metric > 1")[0] == 2
    assert sorted(path.relative_to(out) for path in out.rglob("*")) == before
    assert run(*arguments)[0] == 0
    assert _theirs(out) == THEIRS
    assert not list(Path(out).rglob("*.npz"))


def test_run_that_kept_nothing_leaves_no_folder(run, files, tmp_path):  # noqa: F811
    empty = tmp_path / "images"
    (empty / "blue").mkdir(parents=True)
    for number in range(20):
        (empty / "blue" / f"{number}.png").write_bytes(b"no picture")
    out = tmp_path / "new" / "out"
    assert run(*_pair(files), "--data", empty, *A_COLOUR, "--out", out)[0] == 2
    assert not (tmp_path / "new").exists()
