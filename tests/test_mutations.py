"""Damaged input of every kind ends in 0, 2 or 4, with one line where it is refused."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.mutations.__main__ import SOUND
from tests.mutations.inputs import kinds

PER_KIND = 20
ROOT = Path(__file__).parents[1]


def test_damaged_files_of_every_kind():
    done = subprocess.run(
        [sys.executable, "-m", "tests.mutations", str(PER_KIND), "0"],
        cwd=ROOT,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([*sys.path, str(ROOT)]),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    cases = [json.loads(line) for line in done.stdout.splitlines()]
    assert [case for case in cases if not case["accepted"]] == []
    tried = Counter(case["kind"] for case in cases if case["seed"] != SOUND)
    assert tried == {kind.name: PER_KIND for kind in kinds()}
    # Without damage nothing is refused, but for checkpoints: a whole network is too large here.
    refused = {c["kind"] for c in cases if c["seed"] == SOUND and c["outcome"] == "exit 2"}
    assert refused == {"zip.pt", "legacy.pt", "w.safetensors"}
    outcomes = Counter(case["outcome"] for case in cases if case["seed"] != SOUND)
    assert outcomes["exit 2"] > len(cases) / 3
