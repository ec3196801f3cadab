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
_RANGES: frozenset[CauseKind] = frozenset({"clipped activation", "unused range"})
# Of the whole model; the other ones were found by trying them.
_ALL_RANGES: frozenset[CauseKind] = frozenset({"calibration data", "16-bit activations"})
# Less is chance.
_LEAST_DB = 0.1


def with_trials(ranking: Iterable[Diagnosis], layers: LayersDrift) -> Iterator[Diagnosis]:
    """``ranking`` with what was won; as it is where ``layers`` could not be tried."""
    effects = layers.effects
    tried = None if effects is None else effects.tried
    for entry in ranking:
        if effects is None or tried is None:
            yield entry
        elif entry.effect is not None:
            place = effects.ranked.index(entry.effect)
            if place < len(tried.in_float):
                yield _judged(entry, _trial(tried, place))
            else:
                yield replace(entry, cause=without_advice(entry.cause))
        elif entry.cause.kind in _ALL_RANGES:
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


def _judged(entry: Diagnosis, trial: LayerTrial) -> Diagnosis:
    ranged = trial.in_float is None or entry.cause.kind in _RANGES
    if ranged and trial.fitting_range is not None:
        won = replace(trial, in_float=None)
    else:
        won = replace(trial, fitting_range=None)
    cause = entry.cause if won.gain_db >= _LEAST_DB else without_advice(entry.cause)
    return replace(entry, cause=cause, trial=won)
