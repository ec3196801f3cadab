"""Thousands of damaged files of every kind through the command line: how does each end?

    python benchmarks/mutations.py [--count 20000] [--seed 1] [--processes 1] [--out cases.jsonl]

Accepted are exit codes 0, 2 and 4, with one line on standard error where it is not 0 and no
control character in it. Exit code 1 unless all are; those that are not are printed with the seed
that makes them again (``tests/mutations``).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import selectors
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

_ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(_ROOT))

from tests.mutations.__main__ import SOUND  # noqa: E402
from tests.mutations.inputs import kinds  # noqa: E402

_SHOWN = 20


def tried(count: int, seed: int, processes: int) -> Iterator[dict[str, Any]]:
    """At least ``count`` cases as they end, shared out over ``processes``."""
    each = -(-count // (len(kinds()) * processes))
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.mutations", str(each), str(seed + number)],
            cwd=_ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]
    with selectors.DefaultSelector() as ready:
        for process in running:
            assert process.stdout is not None
            ready.register(process.stdout, selectors.EVENT_READ)
        while ready.get_map():
            for key, _ in ready.select():
                # A second line that came with it is read after the next, or at the end.
                line = key.fileobj.readline()  # type: ignore[union-attr]
                if not line:
                    ready.unregister(key.fileobj)
                elif (case := json.loads(line))["seed"] != SOUND:
                    yield case


def overview(cases: list[dict[str, Any]]) -> Table:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for case in cases:
        counts[case["kind"]][case["outcome"]] += 1
        counts["all"][case["outcome"]] += 1
    outcomes = sorted(counts["all"])
    table = Table(title=f"{len(cases):,} damaged inputs by how the command ended")
    table.add_column("kind")
    for heading in (*outcomes, "all"):
        table.add_column(heading, justify="right")
    for kind, found in sorted(counts.items(), key=lambda item: item[0] == "all"):
        row = [str(found[outcome] or "") for outcome in outcomes]
        table.add_row(kind, *row, str(found.total()))
    return table


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    cases: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack, contextlib.suppress(KeyboardInterrupt):
        kept = (
            stack.enter_context(options.out.open("w", encoding="utf-8")) if options.out else None
        )
        for case in tried(options.count, options.seed, options.processes):
            cases.append(case)
            if kept is not None:
                kept.write(f"{json.dumps(case)}\n")
    console = Console(width=110)
    console.print(overview(cases))
    refused = [case for case in cases if not case["accepted"]]
    for case in refused[:_SHOWN]:
        words = " ".join(case["command"])
        console.print(escape(f"{case['kind']} {case['seed']}: {case['outcome']}: {words}"))
        console.print(escape(ascii(case["stderr"][-600:])))
    if len(cases) < options.count:
        console.print(f"only {len(cases):,} of {options.count:,} cases were tried")
    return bool(refused) or len(cases) < options.count


if __name__ == "__main__":
    sys.exit(main())
