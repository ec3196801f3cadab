"""Run a function in a child process, so that a native crash is an error and not ours.

LiteRT and onnxruntime may abort, segfault or hang on a hostile file. The child imports only
what the function needs. Request and result travel as pickles between two processes of one user
running the same code; nothing of the inspected file is unpickled.
"""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnv4_deploy.errors import DeployError, ModelFileError, ToolchainError

DEFAULT_TIMEOUT_S = 120.0
# A damaged shape can ask for any amount of memory: fail in the child before the machine swaps.
_CHILD_MEMORY_BYTES = 16 << 30
_OUTCOME_FILE = "outcome.pickle"


@dataclass(frozen=True)
class Outcome:
    """What the child sends back: a value, a DeployError, or the traceback of a bug."""

    value: Any = None
    error: DeployError | None = None
    bug: str | None = None


@dataclass(frozen=True)
class IsolatedResult:
    """A function's return value and what the native libraries wrote while it ran."""

    value: Any
    log: str


def run_isolated(
    function: str, *args: Any, timeout_s: float = DEFAULT_TIMEOUT_S, subject: str | None = None
) -> Any:
    """``function`` ("module:name") of ``args`` in a child process; its return value.

    Arguments and result must pickle. ``subject`` is the untrusted file at work: a crash or a
    timeout then raises ModelFileError naming it, without one ToolchainError. A DeployError of
    the child is raised again here; any other exception of it is a bug and becomes RuntimeError.
    """
    return run_isolated_with_log(function, *args, timeout_s=timeout_s, subject=subject).value


def run_isolated_with_log(
    function: str, *args: Any, timeout_s: float = DEFAULT_TIMEOUT_S, subject: str | None = None
) -> IsolatedResult:
    """:func:`run_isolated`, with the child's standard output and error beside the value."""
    with tempfile.TemporaryDirectory(prefix="mnv4-deploy-") as folder:
        outcome_path = Path(folder) / _OUTCOME_FILE
        request = pickle.dumps((function, args, sys.path, str(outcome_path)))
        try:
            child = subprocess.run(
                [sys.executable, "-P", "-m", "mnv4_deploy.profiles.isolated"],
                input=request,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise _failure(subject, f"was not done after {timeout_s:g} s") from error
        log = child.stdout.decode("utf-8", "replace")
        if not outcome_path.is_file():
            raise _failure(subject, f"made the native runtime crash ({_reason(child.returncode)})")
        outcome: Outcome = pickle.loads(outcome_path.read_bytes())
    if outcome.error is not None:
        raise outcome.error
    if outcome.bug is not None:
        raise RuntimeError(f"{function} failed in the child process:\n{outcome.bug}")
    return IsolatedResult(outcome.value, log)


def _failure(subject: str | None, what: str) -> DeployError:
    if subject is None:
        return ToolchainError(f"A run {what}: check the installed runtime versions.")
    return ModelFileError(
        f"{subject} {what}: the file is damaged, or not one that this runtime can read."
    )


def _reason(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or hard > _CHILD_MEMORY_BYTES:
        resource.setrlimit(resource.RLIMIT_AS, (_CHILD_MEMORY_BYTES, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _call(function: str, args: tuple[Any, ...]) -> Outcome:
    try:
        module, _, name = function.partition(":")
        return Outcome(value=getattr(importlib.import_module(module), name)(*args))
    except DeployError as error:
        # Its cause may hold objects that do not pickle; the message is all the user sees.
        return Outcome(error=type(error)(*error.args))
    except Exception:
        return Outcome(bug=traceback.format_exc())


def main() -> None:
    function, args, path, outcome_path = pickle.loads(sys.stdin.buffer.read())
    sys.path[:] = path
    _limit_memory()
    outcome = pickle.dumps(_call(function, args))
    # Written under another name first: a crash halfway must not leave half an outcome.
    unfinished = Path(outcome_path).with_suffix(".unfinished")
    unfinished.write_bytes(outcome)
    unfinished.replace(outcome_path)
    # Native libraries may crash while they are torn down; the outcome is already safe.
    os._exit(0)


if __name__ == "__main__":
    # Outcome must pickle as this module's class, not as __main__'s.
    importlib.import_module("mnv4_deploy.profiles.isolated").main()
