"""The order of several files on a device where each run is a process of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from mnv4_deploy.profiles.records.profile import MeasureRequest

# Enough to spread slow drifts of the clock over all files, few enough that loading and warming
# up do not take longer than measuring.
_TURNS = 3


def turns(requests: Sequence[MeasureRequest]) -> Iterator[tuple[int, MeasureRequest]]:
    """Which request to run next, and the part of it to run: one alone at once, several in turns.

    The parts of a request together have at least its runs and its seconds.
    """
    count = _TURNS if len(requests) > 1 else 1
    for _ in range(count):
        for index, request in enumerate(requests):
            yield (
                index,
                replace(
                    request,
                    runs=math.ceil(request.runs / count),
                    max_seconds=request.max_seconds / count,
                ),
            )
