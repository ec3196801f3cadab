"""The command ``drift`` in a process of its own that a test stops in the middle.

As a program: the command, which stands still once so many shards are kept, until a file is there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.time_limit import PATIENCE_S, wait_until


def stopped(
    arguments: Sequence[object],
    folder: Path,
    out: Path,
    shards: int,
    stop: Callable[[subprocess.Popen[str]], object],
) -> tuple[int, str]:
    """The exit code and the log of ``drift``, to which ``stop`` is done after ``shards``.

    ``folder`` gets its cache, ``out`` is what --out says.
    """
    gate = folder / f"gate {shards}"
    process = subprocess.Popen(
        [sys.executable, "-P", __file__, str(shards), str(gate), *map(str, arguments)],
        env={
            **os.environ,
            "MNV4_DEPLOY_CACHE": str(folder / "cache"),
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: kept(out) >= shards or process.poll() is not None)
    assert process.poll() is None
    stop(process)
    gate.touch()
    printed, logged = process.communicate(timeout=PATIENCE_S)
    assert printed == "" or "error" in json.loads(printed)
    return process.returncode, logged


def kept(out: Path) -> int:
    """The finished shards."""
    return len([path for path in out.rglob("*.npz") if not path.name.startswith(".")])


def main(shards: int, gate: Path) -> None:
    from mnv4_deploy.cli import app
    from mnv4_deploy.drift.store import ShardStore

    save = ShardStore.save

    def save_and_wait(self, shard, result):
        save(self, shard, result)
        while kept(self.folder) >= shards and not gate.exists():
            time.sleep(0.01)

    ShardStore.save = save_and_wait  # type: ignore[method-assign]
    app.main()


if __name__ == "__main__":
    main(int(sys.argv.pop(1)), Path(sys.argv.pop(1)))
