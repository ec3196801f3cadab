"""A comparison made up for tests: B is the profile of the factory, A without its first layer."""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle, islice

from mnv4_deploy.profiles.measure.sessions import Session, opens_b_first
from mnv4_deploy.profiles.records.profile import Conditions, ModelProfile
from mnv4_deploy.profiles.roofline.comparison import Comparison, compare_profiles
from tests.profiles.profile_factory import SPECS, make_profile

_SESSIONS = 8


def compared() -> Comparison:
    a = _in_sessions(make_profile(SPECS[1:], path="models/<old>.tflite"))
    b = _in_sessions(make_profile(path="models/hybrid-m-int8.tflite"))
    quiet = Conditions((1.0,), 0.0, 4.0)
    sessions = [Session(opens_b_first(i), 1, (1, 1), quiet) for i in range(_SESSIONS)]
    return compare_profiles(a, b, sessions)


def _in_sessions(profile: ModelProfile) -> ModelProfile:
    """With a round of one run in each session, in which every layer takes its times in turns."""
    layers = tuple(
        replace(layer, samples_us=tuple(islice(cycle(layer.samples_us), _SESSIONS)))
        for layer in profile.layers
    )
    rounds = tuple(
        (sum(run),) for run in zip(*filter(None, (x.samples_us for x in layers)), strict=True)
    )
    measured = replace(profile.measurement, rounds_us=rounds, profiled_rounds_us=rounds)
    return replace(profile, layers=layers, measurement=measured)
