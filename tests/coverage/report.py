"""Prints what share of our lines ran, of which files least, and with --missing each line that
did not: python tests/coverage/report.py FOLDER [--missing].

FOLDER holds what count.py wrote in each process.
"""

from __future__ import annotations

import json
import sys
import sysconfig
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import slipcover

PACKAGE = Path(sysconfig.get_path("purelib"), "mnv4_deploy")
# What type checkers alone read.
NEVER_RUN = ["if TYPE_CHECKING:", r"class .*\(Protocol\b.*\):", "@overload"]
LEAST = 5


@dataclass(frozen=True)
class File:
    """A source file below the package: its lines with code, and those of them that ran."""

    name: str
    lines: frozenset[int]
    ran: frozenset[int]

    @property
    def percent(self) -> float:
        return 100 * len(self.ran) / len(self.lines)


def files(folder: Path) -> list[File]:
    """All files with code, those where least ran first."""
    ran: defaultdict[str, set[int]] = defaultdict(set)
    for path in folder.glob("*.json"):
        for name, lines in json.loads(path.read_text(encoding="utf-8")).items():
            ran[name].update(lines)
    whole = slipcover.Slipcover(source=[str(PACKAGE)], exclude_also=NEVER_RUN).get_coverage()
    found = []
    for path, file in whole["files"].items():
        name = str(Path(path).resolve().relative_to(PACKAGE.resolve()))
        if lines := frozenset(file["missing_lines"]):
            found.append(File(name, lines, lines & ran[name]))
    return sorted(found, key=lambda file: (file.percent, file.name))


def ranges(lines: frozenset[int]) -> str:
    """Line numbers as people read them: 3-5, 9."""
    found: list[list[int]] = []
    for line in sorted(lines):
        if found and found[-1][-1] == line - 1:
            found[-1] = [found[-1][0], line]
        else:
            found.append([line])
    return ", ".join("-".join(map(str, pair)) for pair in found)


def main() -> None:
    found = files(Path(sys.argv[1]))
    if "--missing" in sys.argv[2:]:
        for file in found:
            if missing := file.lines - file.ran:
                print(f"{file.percent:5.1f} %  {file.name}  {ranges(missing)}")
    lines = sum(len(file.lines) for file in found)
    percent = 100 * sum(len(file.ran) for file in found) / lines
    least = ", ".join(f"{file.name} {file.percent:.0f} %" for file in found[:LEAST])
    print(f"{percent:.1f} % of {lines} lines ran in the tests; least in {least}.")


if __name__ == "__main__":
    main()
