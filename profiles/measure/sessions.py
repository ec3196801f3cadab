"""Two files in turns, in several processes one after the other.

What a process does once (where its memory lies, which of the files it opens first) makes a file
faster or slower by percents for as long as it lives. Only other processes show how much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

from mnv4_deploy.profiles.isolated import run_isolated
from mnv4_deploy.profiles.measure.measure import measure, time_again, timeout_of
from mnv4_deploy.profiles.measure.parts import joined
from mnv4_deploy.profiles.records.profile import (
    Conditions,
    Measurement,
    MeasureRequest,
    TimedFile,
)

SESSIONS = 8
_LEAST_SESSIONS = 4
_US = 1e-6


@dataclass(frozen=True)
class Session:
    """One process: ``rounds`` is the number of rounds without profiler, ``profiled_rounds`` those
    with it of A and of B. ``b_first``: it opened B before A."""

    b_first: bool
    rounds: int
    profiled_rounds: tuple[int, int]
    conditions: Conditions


@dataclass(frozen=True)
class Pair:
    """Both files with the times of all sessions, in the sessions' order."""

    a: Measurement
    b: Measurement
    sessions: tuple[Session, ...]


def measure_pair(a: MeasureRequest, b: MeasureRequest) -> Pair:
    """``a`` and ``b`` in turns, in 8 processes that share the runs and seconds of ``a``.

    Files that are too slow for that have fewer processes, at least 4. Raises as
    :func:`~mnv4_deploy.profiles.measure.measure.measure` does.
    """
    requests = [_share(request) for request in (a, b)]
    measured = measure(requests, timeout_s=timeout_of((a, b)))
    pair = Pair(measured[0], measured[1], (_session(measured, b_first=False),))
    return measure_more(pair, a, b, SESSIONS - 1)


def measure_more(pair: Pair, a: MeasureRequest, b: MeasureRequest, count: int) -> Pair:
    """``pair`` and ``count`` sessions more, each with an eighth of the runs and seconds of ``a``.

    Ends earlier, with an even number of sessions, where the runs have taken all of the seconds of
    so many sessions. Raises as :func:`measure_pair` does.
    """
    limit_s = a.max_seconds * (len(pair.sessions) + count) / SESSIONS
    if _seconds(pair) > 2 * a.max_seconds * len(pair.sessions) / SESSIONS:
        a, b = (replace(request, runs=SESSIONS) for request in (a, b))  # one in each
    profile = bool(pair.a.profiled_rounds_us or pair.b.profiled_rounds_us)
    for _ in range(count):
        done = len(pair.sessions)
        if done >= _LEAST_SESSIONS and done % 2 == 0 and _seconds(pair) > limit_s:
            break
        pair = _with_session(pair, a, b, profile)
    return pair


def _with_session(pair: Pair, a: MeasureRequest, b: MeasureRequest, profile: bool) -> Pair:
    b_first = opens_b_first(len(pair.sessions))
    requests = [_share(request) for request in ((b, a) if b_first else (a, b))]
    timed = run_isolated(
        time_again,
        tuple(requests),
        profile,
        timeout_s=timeout_of((a, b)),
        subject=f"{a.path} or {b.path}",
    )
    if b_first:
        timed = timed[::-1]
    return Pair(
        _with_part(pair.a, timed[0]),
        _with_part(pair.b, timed[1]),
        (*pair.sessions, _session(timed, b_first=b_first)),
    )


def opens_b_first(index: int) -> bool:
    """Whether session ``index`` does: AB BA BA AB and so on (Thue and Morse), so that neither
    being first nor a machine that becomes steadily slower favours a file."""
    return index.bit_count() % 2 == 1


def _share(request: MeasureRequest) -> MeasureRequest:
    return replace(
        request,
        runs=math.ceil(request.runs / SESSIONS),
        max_seconds=request.max_seconds / SESSIONS,
    )


def _session(timed: Sequence[Measurement | TimedFile], *, b_first: bool) -> Session:
    a, b = timed
    profiled = (len(a.profiled_rounds_us), len(b.profiled_rounds_us))
    return Session(b_first, len(a.rounds_us), profiled, a.conditions)


def _with_part(whole: Measurement, part: TimedFile) -> Measurement:
    before = TimedFile(
        whole.profile,
        whole.cpus,
        whole.rounds_us,
        whole.profiled_rounds_us,
        whole.conditions,
        whole.notes,
        whole.cpu_rounds_us,
    )
    both = joined([before, replace(part, notes=())])
    return replace(
        whole,
        profile=both.profile,
        rounds_us=both.rounds_us,
        profiled_rounds_us=both.profiled_rounds_us,
        cpu_rounds_us=both.cpu_rounds_us,
        conditions=both.conditions,
    )


def _seconds(pair: Pair) -> float:
    """What the recorded runs have taken."""
    rounds = (x for m in (pair.a, pair.b) for x in (*m.rounds_us, *m.profiled_rounds_us))
    return _US * math.fsum(chain.from_iterable(rounds))
