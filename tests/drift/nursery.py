"""Dask's processes, forked from one that has imported Dask: nothing takes them longer.

As a program: starts what it reads on its standard input and prints the process's number.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from typing import NoReturn

from tests.processes import alive
from tests.time_limit import wait_until


@dataclass(frozen=True)
class Child:
    """The part of ``subprocess.Popen`` that tests need."""

    pid: int

    @property
    def alive(self) -> bool:
        return alive(self.pid)

    def kill(self) -> None:
        """And wait for its end."""
        if self.alive:
            os.kill(self.pid, signal.SIGKILL)
        wait_until(lambda: not self.alive)


def start(module: str, *arguments: str, **environment: str) -> Child:
    """``python -m module arguments``; a PYTHONPATH in ``environment`` comes before the rest."""
    nursery = _nursery()
    assert nursery.stdin and nursery.stdout
    request = {"module": module, "arguments": arguments, "environment": environment}
    nursery.stdin.write(json.dumps(request) + "\n")
    nursery.stdin.flush()
    return Child(int(nursery.stdout.readline()))


@cache
def _nursery() -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", __name__],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(process.kill)
    return process


def main() -> None:
    import distributed  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for children
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _become(**json.loads(line))
        print(pid, flush=True)


def _become(module: str, arguments: list[str], environment: dict[str, str]) -> NoReturn:
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(nothing, descriptor)
        os.environ.update(environment)
        sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        os._exit(1)


if __name__ == "__main__":
    main()
