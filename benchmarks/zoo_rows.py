"""The lines of the table: what is known of both sides' files, and their times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from build_pairs import DTYPES, Pair, Subject
from measure_pairs import Race, race
from zoo_build import progress
from zoo_files import FileRecord, SideRecord
from zoo_goals import Key, Session

from mnv4_deploy.profiles.measure.rounds import time_files
from mnv4_deploy.profiles.records.timing import WallTimes

# A large model has fewer rounds than asked for, or it alone would take most of the time.
_SECONDS_PER_COMPARISON = 15.0
_RUNS_PER_ROUND = 6
_FEWEST_ROUNDS = 6


@dataclass(frozen=True)
class Row:
    """One line of the table: the files of both sides, and their times where there are any."""

    key: Key
    stock: tuple[tuple[str, FileRecord], ...]  # by form of the attention
    ours: FileRecord
    races: tuple[Race, ...] = ()
    alone: WallTimes | None = None

    @property
    def pair(self) -> Pair | None:
        candidates = {form: Path(file.path) for form, file in self.stock if file.path}
        if not candidates or not self.ours.path:
            return None
        return Pair(*self.key, candidates, Path(self.ours.path))

    @property
    def stock_file(self) -> FileRecord:
        """The fastest candidate; before timing, or without, the first that exists."""
        files = dict(self.stock)
        if self.races:
            return files[self.races[0].form]
        return next((file for file in files.values() if file.path), self.stock[0][1])

    @property
    def sessions(self) -> tuple[Session, ...]:
        return tuple(Session(tuple(found.round_ratios)) for found in self.races)


def rows(sides: dict[Subject, tuple[SideRecord, ...]]) -> Iterator[Row]:
    for subject, (*stock, ours) in sides.items():
        for dtype in DTYPES:
            yield Row(
                Key(subject.model, subject.format, dtype),
                tuple((side.form, side.files[dtype]) for side in stock),
                ours.files[dtype],
            )


def timed(row: Row, most_rounds: int) -> Row:
    """The row with its times; what looks slower than stock is timed in a second session."""
    progress(f"{' '.join(row.key)}: timing")
    files = [file for _, file in row.stock if file.path]
    files += [row.ours] if row.ours.path else []
    if not files:
        return row
    round_s = _RUNS_PER_ROUND * sum(file.run_s for file in files)
    rounds = max(_FEWEST_ROUNDS, int(_SECONDS_PER_COMPARISON / max(round_s, 1e-6)))
    rounds = min(rounds, most_rounds)
    pair = row.pair
    if pair is None:
        found = time_files([file.path for file in files], rounds=rounds)
        alone = min(found, key=lambda times: times.median_us)
        return replace(row, alone=alone)
    races = [race(pair, 1, rounds)]
    if Session(tuple(races[0].round_ratios)).looks_slower:
        races.append(race(pair, 1, rounds))
    return replace(row, races=tuple(races))
