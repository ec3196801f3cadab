"""Advice that was tried says what it won; what won nothing, or was not tried, is no advice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from mnv4_deploy.layers.records import (
    Cause,
    CauseKind,
    Diagnosis,
    LayersDrift,
    LayerTrial,
    OutputTrials,
)

# Where the range is what is to be mended, a range that fits is what is tried.
_RANGES: frozenset[CauseKind] = frozenset(
    {"clipped activation", "unused range", "calibration data"}
)
# Less is chance.
_LEAST_DB = 0.1


def with_trials(ranking: Iterable[Diagnosis], layers: LayersDrift) -> Iterator[Diagnosis]:
    """``ranking`` with what was won; as it is where the layers of ``layers`` could not be tried.

    Causes of the whole model were found by trying them, but for the calibration.
    """
    effects = layers.effects
    tried = None if effects is None else effects.tried
    for entry in ranking:
        if effects is None or tried is None:
            yield entry
        elif entry.layer is not None:
            own = entry.layer if entry.effect is None else entry.effect.layer
            place = [effect.layer for effect in effects.ranked[: len(tried.in_float)]]
            yield _judged(entry, _trial(tried, place.index(own)) if own in place else None)
        elif entry.cause.kind == "calibration data":
            won = LayerTrial(tried.images, tried.candidate, None, tried.all_ranges)
            yield _judged(entry, won)
        else:
            yield entry


def without_advice(cause: Cause) -> Cause:
    return replace(cause, advice="")


def _trial(tried: OutputTrials, place: int) -> LayerTrial:
    return LayerTrial(
        tried.images, tried.candidate, tried.in_float[place], tried.fitting_range[place]
    )


def _judged(entry: Diagnosis, trial: LayerTrial | None) -> Diagnosis:
    if trial is None:
        return replace(entry, cause=without_advice(entry.cause))
    if entry.cause.kind in _RANGES and trial.fitting_range is not None:
        won = replace(trial, in_float=None)
    else:
        won = replace(trial, fitting_range=None)
    cause = entry.cause if won.gain_db >= _LEAST_DB else without_advice(entry.cause)
    return replace(entry, cause=cause, trial=won)
