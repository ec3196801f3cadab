"""Forks in the place of processes.

One process imports everything once; each case runs ``mnv4_deploy.cli.app.main`` in a fork of it,
and each child process that the product would start is a fork too. So a case costs tenths of a
second, and a native crash is where it would be: in a child, or in the command itself.
"""

from __future__ import annotations

import io
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mnv4_deploy.drift.run_shard import ShardRunner
from mnv4_deploy.errors import ToolchainError
from mnv4_deploy.profiles import isolated

CASE_SECONDS = 60
TELL = "MUTATIONS_TELL"  # names a file for what was imported
_MEMORY_BYTES = 8 << 30


def forked(command: tuple[str, ...], folder: Path) -> tuple[str, str]:
    """How ``command`` ends, and what it writes to standard error."""
    err = folder / "stderr"
    child = os.fork()
    if child == 0:
        os._exit(_child(command, folder, err))
    deadline = time.monotonic() + CASE_SECONDS
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return f"not done after {CASE_SECONDS} s", ""
        time.sleep(0.002)
    said = err.read_bytes().decode("utf-8", "replace")
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return f"crash {signal.Signals(-code).name}", said
    if "Traceback" in said:
        return "traceback", said
    # Notes are lines too, and allowed where something came of it.
    lines = [line for line in said.splitlines() if not line.startswith("note: ")]
    if len(lines) != (1 if code else 0):
        return f"exit {code} with {len(lines)} lines", said
    if any(ord(char) < 32 and char != "\n" for char in said):
        return "control characters", said
    return f"exit {code}", said


def _child(command: tuple[str, ...], folder: Path, err: Path) -> int:
    os.chdir(folder)
    os.environ["MNV4_DEPLOY_CACHE"] = str(folder / "cache")
    for descriptor, target in ((1, folder / "stdout"), (2, err)):
        os.dup2(os.open(target, os.O_WRONLY | os.O_CREAT), descriptor)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.FileIO(descriptor, "w", closefd=False), write_through=True)
        for descriptor in (1, 2)
    )
    from mnv4_deploy.cli import app

    try:
        app.main(list(command))
    except SystemExit as stop:
        if tell := os.environ.get(TELL):
            with Path(tell).open("a", encoding="utf-8") as told:
                told.writelines(f"{name}\n" for name in sys.modules)
        return stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def isolated_by_fork(
    function: Callable[..., Any],
    *args: Any,
    timeout_s: float = isolated.DEFAULT_TIMEOUT_S,
    subject: str | None = None,
    memory_bytes: int | None = None,
) -> isolated.IsolatedResult[Any]:
    """``run_isolated_with_log`` without the half second that a fresh interpreter takes."""
    del timeout_s, memory_bytes
    with tempfile.TemporaryFile() as outcome, tempfile.TemporaryFile() as log:
        child = os.fork()
        if child == 0:
            for descriptor in (1, 2):
                os.dup2(log.fileno(), descriptor)
            isolated.limit_memory(_MEMORY_BYTES)
            outcome.write(pickle.dumps(isolated.outcome_of(function, *args)))
            outcome.flush()
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        outcome.seek(0)
        found = outcome.read()
        log.seek(0)
        text = log.read().decode("utf-8", "replace")
    if code:
        raise isolated.ended(subject, code, text)
    name, too_large = isolated.name_of(function), isolated.too_large(subject)
    return isolated.IsolatedResult(pickle.loads(found).result(name, too_large, subject), text)


class Here:
    """Shards in this process instead of in workers'."""

    workers = 1
    processors = frozenset({"this"})

    def __init__(self, job: Any) -> None:
        self._job = job

    def run(self, shards: Any, key: str) -> Iterator[Any]:
        del key
        runner = ShardRunner(self._job)
        for shard in shards:
            short = ToolchainError("There is too little memory.")
            yield isolated.outcome_of(runner.run, shard).result("a shard", short)
