"""Ceilings measured in a third of the time: all parts, in the same way, but less exactly."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mnv4_deploy.profiles.machine import ceilings
from mnv4_deploy.profiles.machine.ceilings import Part
from mnv4_deploy.profiles.machine.kernels import rates
from mnv4_deploy.profiles.records.machine import Machine
from tests.shared import Shared

_ROUNDS, _MOST_S = 16, 0.0  # none more until the machine is quiet, which it never is
_QUICK_RUNS, _LONG_RUNS, _LONG_ROUNDS = 2, 6, 1


@contextmanager
def in_haste() -> Iterator[None]:
    """So in this process and in those that it starts to measure."""
    hasty = {f.__name__: f for f in (measure_independent, measure_xnnpack, measure_onnxruntime)}
    *without_kernels, _ = ceilings._WITHOUT_KERNELS
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(rates, "_ROUNDS", _ROUNDS)
        patched.setattr(rates, "_MOST_S", _MOST_S)
        stages = tuple((*words, hasty[f.__name__]) for *words, f in ceilings._STAGES)
        patched.setattr(ceilings, "_STAGES", stages)
        patched.setattr(ceilings, "_WITHOUT_KERNELS", (*without_kernels, measure_numpy))
        # Last, for installed packages come first.
        patched.setattr(sys, "path", [*sys.path, str(Path(__file__).parents[2])])
        yield


def machine_here(shared: Shared) -> Machine:
    """All ceilings of one thread of this machine."""

    def measure(_: Path) -> Machine:
        with in_haste():
            return ceilings.measure_machine([1])

    return shared.folder_and_value("ceilings-of-one-thread", measure)[1]


# What child processes import by these names, which know nothing of the parent's constants.


def measure_independent(threads: int, kit: str | None) -> Part:
    _fewer_rounds()
    return ceilings.measure_independent(threads, kit)


def measure_numpy(threads: int, kit: str | None) -> Part:
    _fewer_rounds()
    return ceilings.measure_numpy(threads, kit)


def measure_xnnpack(threads: int, kit: str | None) -> Part:
    _fewer_runs()
    return ceilings.measure_xnnpack(threads, kit)


def measure_onnxruntime(threads: int, kit: str | None) -> Part:
    _fewer_runs()
    return ceilings.measure_onnxruntime(threads, kit)


def _fewer_rounds() -> None:
    rates._ROUNDS, rates._MOST_S = _ROUNDS, _MOST_S


def _fewer_runs() -> None:
    from mnv4_deploy.profiles.machine import peaks

    peaks._QUICK_RUNS, peaks._LONG_RUNS = _QUICK_RUNS, _LONG_RUNS
    peaks._LONG_ROUNDS = _LONG_ROUNDS
