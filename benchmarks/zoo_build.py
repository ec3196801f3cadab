"""All files of the table, each model and format in a child process, on all cores."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from build_pairs import Maker, Subject, makers
from zoo_files import SideRecord, build_sides, failed, keep, kept

from mnv4_deploy.errors import DeployError
from mnv4_deploy.models.macs import count_macs
from mnv4_deploy.profiles.isolated import run_isolated

_BUILD_S = 3600.0
_ADDRESS_SPACE_BYTES = 1 << 40  # a converter maps far more than it uses


def build_all(
    subjects: Sequence[Subject], cache: Path, jobs: int
) -> dict[Subject, tuple[SideRecord, ...]]:
    """The sides of every subject, stock's first; what ``cache`` has is not made again.

    ``jobs`` subjects are at work at a time, each on one core.
    """
    # The longest first, or the last one runs alone.
    waiting = sorted(subjects, key=lambda s: -count_macs(s.model, s.size))
    with ThreadPoolExecutor(jobs) as pool:
        found = dict(zip(waiting, pool.map(lambda s: _built(s, cache), waiting), strict=True))
    return {subject: found[subject] for subject in subjects}


def _built(subject: Subject, cache: Path) -> tuple[SideRecord, ...]:
    wanted = makers(subject.model, subject.format)
    start = time.monotonic()
    while missing := [maker for maker in wanted if kept(maker, subject, cache) is None]:
        labels = [maker.label for maker in missing]
        progress(f"{subject.model} {subject.format}: building {', '.join(labels)}")
        try:
            run_isolated(
                build_sides,
                labels,
                subject,
                cache,
                timeout_s=_BUILD_S,
                memory_bytes=_ADDRESS_SPACE_BYTES,
            )
        except DeployError as error:
            _blame(missing, subject, cache, error)
        else:
            progress(f"{subject.model} {subject.format}: {time.monotonic() - start:.0f} s")
            break
    found = tuple(record for m in wanted if (record := kept(m, subject, cache)) is not None)
    if len(found) < len(wanted):
        # The names have a digest of the code, which the child saw otherwise than this process.
        raise SystemExit("The code changed while files were built from it: run this again.")
    return found


def _blame(missing: Sequence[Maker], subject: Subject, cache: Path, error: DeployError) -> None:
    """A crash of native code is the failure of the side that was at work: the first unkept."""
    for maker in missing:
        if kept(maker, subject, cache) is None:
            keep(maker, subject, cache, failed(maker, " ".join(str(error).split())))
            return


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
