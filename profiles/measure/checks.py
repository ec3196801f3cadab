"""What a request may ask for on this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence

from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.profiles.records.profile import MeasureRequest

_MAX_RUNS = 10_000
_MAX_SECONDS = 3600.0


def available_cpus() -> tuple[int, ...]:
    """The CPUs this process may use; all of the machine where the system cannot tell."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def check_requests(requests: Sequence[MeasureRequest]) -> None:
    """:func:`check_request` of each; ValueError for none."""
    check_rounds(requests)
    for request in requests:
        check_threads(request.threads, request.cpus)


def check_request(request: MeasureRequest) -> None:
    """Raise UnsupportedError for threads, CPUs, runs or a time limit out of range."""
    check_requests([request])


def check_rounds(requests: Sequence[MeasureRequest]) -> None:
    """What no machine has to be asked about: UnsupportedError for runs or a time limit out of
    range, ValueError for no request."""
    if not requests:
        raise ValueError("nothing to measure")
    for request in requests:
        _check_rounds(request)


def _check_rounds(request: MeasureRequest) -> None:
    if not 1 <= request.runs <= _MAX_RUNS:
        raise UnsupportedError(f"{request.runs} runs are out of range: give 1 to {_MAX_RUNS}.")
    if not 0 <= request.warmup <= _MAX_RUNS:
        raise UnsupportedError(
            f"{request.warmup} warm-up runs are out of range: give 0 to {_MAX_RUNS}."
        )
    if not 0 < request.max_seconds <= _MAX_SECONDS:  # not NaN either
        raise UnsupportedError(
            f"A time limit of {request.max_seconds:g} s is out of range: give more than 0 and at"
            f" most {_MAX_SECONDS:g}."
        )


def check_threads(threads: int, cpus: Sequence[int] | None = None) -> None:
    """Raise UnsupportedError for CPUs that are not there and for more threads than CPUs."""
    available = available_cpus()
    if cpus is not None:
        if not cpus:
            raise UnsupportedError("No CPU is given to run on: name at least one.")
        missing = sorted(set(cpus) - set(available))
        if missing:
            raise UnsupportedError(
                f"CPU {missing[0]} is not available: this process may use"
                f" {', '.join(map(str, available))}."
            )
    usable = len(set(available if cpus is None else cpus))
    if threads < 1:
        raise UnsupportedError(f"{threads} threads are too few: give at least 1.")
    if threads > usable:
        raise UnsupportedError(
            f"{threads} threads are more than the {usable} {'CPU' if usable == 1 else 'CPUs'} to"
            f" run on: give at most {usable}."
        )


def pin_to(cpus: Sequence[int] | None) -> tuple[int, ...]:
    """Keep this process to ``cpus`` (None: as it is); the CPUs it may use from now on.

    Threads started before keep theirs, so this comes before a runtime is loaded. Raises
    UnsupportedError where the system cannot pin processes.
    """
    if cpus is not None:
        if not hasattr(os, "sched_setaffinity"):
            raise UnsupportedError("This system cannot keep a process to chosen CPUs.")
        try:
            os.sched_setaffinity(0, cpus)
        except OSError as error:
            raise UnsupportedError(
                f"The process cannot be kept to the CPUs {', '.join(map(str, cpus))}"
                f" ({error.strerror})."
            ) from error
    return available_cpus()
