"""Does drift find defects that are known? One a network, planted in files of both formats.

    python benchmarks/planted_faults.py

A hit is the planted layer (or the input, or all layers) ranked first with the right cause. The
exit code is 1 unless every fault is hit and the sound files get no diagnosis of a whole model.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from mnv4_deploy.exporters.records import FORMATS
from tests.drift.planted.bench import Bench, make_bench
from tests.drift.planted.faults import FAULTS, sound
from tests.drift.planted.suite import Verdict, examine, judge
from tests.shared import Shared


def overview(verdicts: list[Verdict]) -> Table:
    table = Table(title="Planted faults: what drift ranks first")
    for heading in ("fault", "format", "planted at", "ranked first", "cause", "hit"):
        table.add_column(heading)
    for verdict in verdicts:
        module, cause = verdict.first
        hit = "yes" if verdict.hit else "no"
        table.add_row(
            verdict.fault.name, verdict.format, verdict.fault.at, module or "-", cause or "-", hit
        )
    return table


def false_alarms(bench: Bench) -> list[str]:
    reference, candidate = (bench.subject(path) for path in sound(bench))
    ranking = examine(reference, candidate).ranking
    return [f"{d.module}: {d.cause.sentence}" for d in ranking if d.layer is None]


def main() -> int:
    console = Console(width=130)
    verdicts: list[Verdict] = []
    alarms: dict[str, list[str]] = {}
    for format_ in FORMATS:
        with tempfile.TemporaryDirectory() as folder:
            bench = make_bench(format_, Path(folder), Shared(Path(folder, "shared")))
            alarms[format_] = false_alarms(bench)
            faults = [fault for fault in FAULTS if format_ in fault.formats]
            verdicts += [judge(bench, fault) for fault in faults]
    console.print(overview(verdicts))
    hits = sum(verdict.hit for verdict in verdicts)
    console.print(f"{hits} of {len(verdicts)} ranked first with the right cause.")
    for format_, found in alarms.items():
        console.print(f"Sound {format_} file: {'; '.join(found) or 'no false alarm'}.")
    return 0 if hits == len(verdicts) and not any(alarms.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
