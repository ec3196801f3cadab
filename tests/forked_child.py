"""What is isolated in a fresh process, in a fork of one that has all libraries: a quarter of a
second of processor time less each time, and what crashes is still a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from mnv4_deploy.profiles import isolated
from mnv4_deploy.profiles.files.own import scratch_folder

_LOADED = (
    *("numpy", "onnx", "onnxruntime"),
    *("ai_edge_litert.compiled_model", "ai_edge_litert.interpreter"),
    "ai_edge_litert.schema_py_generated",
    *("mnv4_deploy.profiles.measure.measure", "mnv4_deploy.profiles.inspection.inspect_onnx"),
    "mnv4_deploy.profiles.inspection.inspect_tflite",
)


@cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_LOADED))
    return context


def run_forked(
    function: Callable[..., Any],
    *args: Any,
    timeout_s: float = isolated.DEFAULT_TIMEOUT_S,
    subject: str | None = None,
    memory_bytes: int | None = None,
) -> isolated.IsolatedResult[Any]:
    """In place of ``run_isolated_with_log``."""
    name = isolated.name_of(function)
    with scratch_folder() as folder:
        outcome_path = folder / "outcome"
        memory = memory_bytes or isolated.CHILD_MEMORY_BYTES
        request = isolated.Request(name, args, str(outcome_path), memory, os.getpid())
        environment = {**os.environ, "TMPDIR": str(folder)}
        # Pickled here: what does not pickle is told as it is for a fresh process.
        child = _context().Process(
            target=_child, args=(pickle.dumps(request), folder / "log", environment)
        )
        child.start()
        child.join(timeout_s)
        if child.exitcode is None:
            child.kill()
            child.join()
            raise isolated.too_slow(subject, timeout_s)
        log = (folder / "log").read_text(encoding="utf-8", errors="replace")
        if not outcome_path.is_file():
            raise isolated.ended(subject, child.exitcode, log)
        outcome: isolated.Outcome = pickle.loads(outcome_path.read_bytes())
    result = outcome.result(name, isolated.too_large(subject), subject)
    return isolated.IsolatedResult(result, log)


def _child(request: bytes, log: Path, environment: Mapping[str, str]) -> None:
    """What a fresh process would find, and then the same work."""
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    written = os.open(log, os.O_WRONLY | os.O_CREAT)
    for descriptor in (1, 2):
        os.dup2(written, descriptor)
    isolated.serve(pickle.loads(request))
