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
        environment = {**os.environ, "TMPDIR": str(folder)}
        memory = memory_bytes or isolated._CHILD_MEMORY_BYTES
        request = pickle.dumps((name, args))
        child = _context().Process(target=_child, args=(request, folder, environment, memory))
        child.start()
        child.join(timeout_s)
        if child.exitcode is None:
            child.kill()
            child.join()
            raise isolated._too_slow(subject, timeout_s)
        log = (folder / "log").read_text(encoding="utf-8", errors="replace")
        too_large = isolated._too_large(subject)
        if child.exitcode:
            if isolated._ran_out_of_memory(child.exitcode, log):
                raise too_large
            raise isolated._crash(subject, isolated.exit_reason(child.exitcode))
        outcome: isolated.Outcome = pickle.loads((folder / "outcome").read_bytes())
    return isolated.IsolatedResult(outcome.result(name, too_large, subject), log)


def _child(request: bytes, folder: Path, environment: Mapping[str, str], memory: int) -> None:
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    isolated.limit_memory(memory)
    name, args = pickle.loads(request)
    outcome = isolated.outcome_of(lambda: isolated.function_named(name)(*args))
    (folder / "outcome").write_bytes(pickle.dumps(outcome))
    os._exit(0)  # as the product's child: libraries may crash while they are torn down
