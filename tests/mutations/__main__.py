"""``python -m tests.mutations COUNT SEED``: what is tried, and what came of it."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnv4_deploy.drift import run as drift_run
from mnv4_deploy.errors import ToolchainError
from mnv4_deploy.profiles import isolated
from tests.mutations.damage import damaged
from tests.mutations.forks import TELL, Here, forked, isolated_by_fork
from tests.mutations.inputs import CEILINGS, Kind, kinds
from tests.profiles.profile_factory import MACHINE

ACCEPTED = (0, 2, 4)
SOUND = -1  # the seed of a case without damage
_SHOWING = ("onnx", "tflite", "zip.pt")  # their last commands import nearly everything


@dataclass(frozen=True)
class Case:
    """``seed`` makes the case again."""

    kind: str
    seed: int
    command: tuple[str, ...]
    outcome: str
    stderr: str

    @property
    def accepted(self) -> bool:
        return self.outcome in {f"exit {code}" for code in ACCEPTED}


def run(per_kind: int, seed: int) -> Iterator[Case]:
    """The last command of each kind on sound files, then ``per_kind`` cases of damaged ones, each
    through one of its commands."""
    for kind in kinds():
        yield _case(kind, kind.commands[-1], SOUND)
        for number in range(per_kind):
            own = seed * 1_000_003 + number
            command = random.Random(f"{kind.name} {own} command").choice(kind.commands)
            yield _case(kind, command, own)


def _case(kind: Kind, command: tuple[str, ...], seed: int) -> Case:
    with tempfile.TemporaryDirectory(prefix="mutation-") as name:
        folder = Path(name)
        generator = random.Random(f"{kind.name} {seed}")
        files = {folder / path: content for path, content in kind.files.items()}
        targets = [folder / path for path in kind.damaged]
        if kind.name == CEILINGS:  # its name is this machine's
            targets = [_cached_machine(folder / "cache")]
            files[targets[0]] = targets[0].read_bytes()
        for path in targets if seed != SOUND else ():
            files[path] = damaged(path, files[path], generator)
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        outcome, stderr = forked(command, folder)
    return Case(kind.name, seed, command, outcome, stderr)


def _prepare() -> None:
    """Put forks in the place of processes, and an end where a device or an export would begin."""
    import torch

    from mnv4_deploy.device import open as opening
    from mnv4_deploy.models import checkpoint_file
    from mnv4_deploy.pipelines import export
    from mnv4_deploy.profiles.machine import ceilings
    from mnv4_deploy.profiles.runtimes.litert import library as litert_library

    litert_library.load_library()
    torch.set_num_threads(1)

    def the_end(*_: Any, **__: Any) -> Any:
        raise ToolchainError("The file passed: this trial ends here.")

    for owner, name, stand_in in (
        (opening, "open_device", the_end),
        (export._Export, "run", the_end),
        (checkpoint_file, "_fitting_model", lambda *_, **__: None),
        (ceilings, "measure_machine", lambda *_, **__: MACHINE),
        (isolated, "run_isolated_with_log", isolated_by_fork),
        (drift_run, "local_executor", lambda job, **_: contextlib.nullcontext(Here(job))),
    ):
        setattr(owner, name, stand_in)


def _import_what_commands_import() -> None:
    """So that no case has to: forks do some commands once and tell what they imported."""
    with tempfile.NamedTemporaryFile("r", encoding="utf-8") as told:
        os.environ[TELL] = told.name
        sound = {kind.name: kind for kind in kinds()}
        for name in _SHOWING:
            _case(sound[name], sound[name].commands[-1], SOUND)
        del os.environ[TELL]
        names = told.read().split()
    for name in dict.fromkeys(names):
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def _cached_machine(folder: Path) -> Path:
    from mnv4_deploy.profiles.machine import cache

    os.environ["MNV4_DEPLOY_CACHE"] = str(folder)
    return cache.save_machine(MACHINE)


def main() -> None:
    """``COUNT SEED``: one JSON line a case on standard output."""
    per_kind, seed = map(int, sys.argv[1:])
    results = os.fdopen(os.dup(1), "w")
    _prepare()
    _import_what_commands_import()
    gc.freeze()
    for case in run(per_kind, seed):
        results.write(json.dumps({**case.__dict__, "accepted": case.accepted}) + "\n")
        results.flush()


if __name__ == "__main__":
    main()
