"""What is isolated in a child process, in the test's own: a third of a second less each time."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import Any

from mnv4_deploy.errors import ModelFileError
from mnv4_deploy.profiles.isolated import (
    IsolatedResult,
    function_named,
    name_of,
    outcome_of,
)


def run_here(
    function: Callable[..., Any],
    *args: Any,
    timeout_s: float = 0.0,
    subject: str | None = None,
    memory_bytes: int | None = None,
) -> IsolatedResult[Any]:
    """In place of ``run_isolated_with_log``, for files that crash nothing and always end.

    All that passes between the processes is pickled all the same, and the function may pin this
    process to some CPUs: it is let go again.
    """
    del timeout_s, memory_bytes
    name, arguments = pickle.loads(pickle.dumps((name_of(function), args)))
    cpus = os.sched_getaffinity(0)
    try:
        outcome = outcome_of(function_named(name), *arguments)
    finally:
        os.sched_setaffinity(0, cpus)
    outcome = pickle.loads(pickle.dumps(outcome))
    too_large = ModelFileError(f"{subject or name} needs more memory than there is.")
    return IsolatedResult(outcome.result(name, too_large, subject), "")
