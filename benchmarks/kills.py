"""Kill commands at random moments in a folder with other people's files; all of theirs must be
there afterwards, and of ours the old files or the new, whole.

    python benchmarks/kills.py [--kills 200] [--seed 0]

``export --overwrite``, ``drift --out --overwrite`` and ``profile --out --overwrite`` take turns in
one folder. Every other kill comes at any moment of the command; the others, as publishing takes
milliseconds of it, within 2 ms of when it begins. SIGKILL, then one more command, which is
refused (no --overwrite) and so changes nothing but what the kill left; then everything is
compared. Exit code 1 if anything is missing, changed, or neither old nor new.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

_MANIFESTS = {"export": "manifest.json", "drift": "drift.json", "profile": "profile.json"}
_AGE_S = 40 * 24 * 3600
_PUBLISHING_S = 0.0015


def commands(out: Path, models: Path) -> dict[str, list[str]]:
    fp32, int8 = (str(models / f"conv-s-035-{kind}.onnx") for kind in ("fp32", "int8"))
    given = {
        "export": [
            *("export", "--model", "conv-s-035", "--weights", "random:0", "--num-classes", "10"),
            *("--size", "32", "--format", "onnx", "--int8", "--calib-images", "16"),
            *("--eval-images", "16"),
        ],
        "drift": [
            *("drift", "--reference", fp32, "--candidate", int8),
            *("--images", "32", "--layer-images", "4"),
        ],
        "profile": ["profile", int8, "--runs", "5", "--machine", "none"],
    }
    program = [sys.executable, "-m", "mnv4_deploy"]
    return {name: [*program, *words, "--out", str(out)] for name, words in given.items()}


def others(out: Path) -> None:
    """What people keep in such a folder; some of it old, some with names like ours."""
    texts = {
        "notes.txt": "mine",
        "index.html": "<html>",
        "thesis/chapter1.tex": "years of work",
        "0123456789abcdef0123456789abcdef/000001.npz": "not a shard",
        ".mnv4-deploy-notes/todo": "mine",
        ".mnv4-deploy-drift/old/data.csv": "1,2",
        "conv-s-035-int8-mine.onnx": "another model",
    }
    for name, text in texts.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    then = time.time() - _AGE_S
    for path in out.rglob("*"):
        os.utime(path, (then, then))


def theirs(out: Path, ours: set[str]) -> dict[str, str]:
    """All that is not ours, by name: content and time of change."""
    hidden = [p for p in out.glob(".mnv4-deploy-*") if (p / "owner.json").exists()]
    shards = out / ".mnv4-deploy-drift"
    hidden += [p.parent for p in shards.glob("*/drift-shards.json")] if shards.exists() else []
    found = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.is_file() and name not in ours and not any(h in path.parents for h in hidden):
            found[name] = f"{digest(path)} {path.stat().st_mtime_ns}"
    return found


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def state(out: Path, manifest: str) -> str:
    """ "whole" where every file that the manifest lists is as it says, else what is not."""
    try:
        document = json.loads((out / manifest).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"no {manifest}"
    for entry in document["files"]:
        path = out / entry["file"]
        if not path.is_file():
            return f"no {path.name}"
        if entry["file"] != manifest and digest(path) != entry["sha256"]:
            return f"another {path.name}"
    return "whole"


def kill_once(
    command: Sequence[str], out: Path, manifest: Path, moment: float, *, publishing: bool
) -> str:
    """When it was killed: before, while or after its files were "published"."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    started = time.monotonic()
    old = digest(manifest)

    def publishes() -> bool:
        return any(out.glob(".mnv4-deploy-*/journal.json"))

    while process.poll() is None and time.monotonic() - started < moment:
        if publishing and publishes():
            break
        time.sleep(0 if publishing else 0.005)
    if publishing:
        time.sleep(random.uniform(0, _PUBLISHING_S))
    process.kill()
    process.wait()
    if publishes():
        return "while"
    return "before" if digest(manifest) == old else "after"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="kills-") as scratch:
        os.environ["TMPDIR"] = str(Path(scratch) / "temporary")
        os.environ["MNV4_DEPLOY_CACHE"] = str(Path(scratch) / "cache")
        Path(os.environ["TMPDIR"]).mkdir()
        return run(Path(scratch), arguments.kills)


def run(scratch: Path, kills: int) -> int:
    out, models = scratch / "out", scratch / "models"
    others(out)
    subprocess.run(commands(models, models)["export"], check=True, stdout=subprocess.DEVNULL)
    given = commands(out, models)
    before = theirs(out, set())
    seconds = {}
    for name, command in given.items():
        started = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds[name] = time.monotonic() - started
    ours = {path.name for path in out.iterdir() if path.is_file()} - set(before)
    counts: Counter[tuple[str, str]] = Counter()
    new = bad = 0
    for number in range(kills):
        name = list(given)[number % len(given)]
        publishing = number // len(given) % 2 == 1
        manifest = out / _MANIFESTS[name]
        old = digest(manifest)
        moment = 10 * seconds[name] if publishing else random.uniform(0, seconds[name])
        when = kill_once(
            [*given[name], "--overwrite"], out, manifest, moment, publishing=publishing
        )
        refused = subprocess.run(given[name], capture_output=True, text=True, check=False)
        found = [state(out, manifest) for manifest in _MANIFESTS.values()]
        left = [p.name for p in out.glob(".mnv4-deploy-*/owner.json")]
        if theirs(out, ours) != before or set(found) != {"whole"} or left:
            bad += 1
            print(f"kill {number} ({name}, {when}): {found}, left {left}, {refused.stderr}")
        if refused.returncode != 2:
            bad += 1
            print(f"kill {number} ({name}, {when}): exit code {refused.returncode}")
        counts[name, when] += 1
        new += digest(manifest) != old
    for name in given:
        row = ", ".join(f"{counts[name, w]} {w}" for w in ("before", "while", "after"))
        print(f"{name:8} killed {row} its files got their names (whole: {seconds[name]:.1f} s)")
    # A child of the last one may live for a moment more: a later run removes its folder.
    time.sleep(1)
    subprocess.run(given["profile"], capture_output=True, check=False)
    temporary = list(Path(os.environ["TMPDIR"]).iterdir())
    print(
        f"{kills} kills: new files {new} times, old ones {kills - new}; {bad} times not whole or "
        f"not all of theirs; {len(before)} files of others; left in TMPDIR: {len(temporary)}"
    )
    return 1 if bad or temporary else 0


if __name__ == "__main__":
    sys.exit(main())
