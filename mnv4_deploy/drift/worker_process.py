"""The other side of ``workers``: a process that runs one shard after the other.

Pickles between two processes of one user that run the same code: orders come in on standard
input, outcomes leave on standard output. The end of standard input is the end of the process,
at once and in the middle of anything: that is how it ends with its parent, however that died.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import sys
import threading
import traceback
from dataclasses import dataclass
from typing import Any

from mnv4_deploy.drift.records import Shard, ShardJob, ShardResult
from mnv4_deploy.profiles.isolated import function_named, outcome_of

# Parents may forget a child (a cluster whose client was killed): then it holds no memory.
_IDLE_SECONDS = 300.0


@dataclass(frozen=True)
class Setup:
    """What a worker process is told first. ``runner`` is "module:name", called with ``job``."""

    job: ShardJob
    runner: str


def main() -> None:
    """Serve until standard input ends or nothing has come for a while."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    # Native libraries print to standard output; ours leaves by a descriptor of its own.
    outcomes = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    orders: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(orders,), daemon=True).start()
    serve = _Server(orders.get())
    while True:
        try:
            shard = orders.get(timeout=_IDLE_SECONDS)
        except queue.Empty:
            os._exit(0)
        pickle.dump(outcome_of(serve, shard), outcomes)
        outcomes.flush()


def _receive(orders: queue.SimpleQueue[Any]) -> None:
    try:
        while True:
            orders.put(pickle.load(sys.stdin.buffer))
    except EOFError:
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


class _Server:
    """Builds the runner for the first shard and keeps it."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._runner: Any = None

    def __call__(self, shard: Shard) -> ShardResult:
        if self._runner is None:
            self._runner = function_named(self._setup.runner)(self._setup.job)
        result: ShardResult = self._runner.run(shard)
        return result
