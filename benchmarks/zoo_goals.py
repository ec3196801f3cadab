"""What the table of the zoo must reach, and the arithmetic of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from build_pairs import Dtype

# Below this a difference is of no use to anybody, and two copies of one file may show it.
TOLERATED_RATIO = 1.02
CONFIDENCE = 0.95
# The fewest that have a 95 % interval for their median.
MIN_ROUNDS = 6
ATTENTION_FAMILIES = ("efficientvit-", "mlla-", "hybrid-")
MODEL_LIMITS = {"efficientvit-m2": 0.70, "efficientvit-m5": 0.70}  # int8 TFLite
MEAN_LIMITS: dict[tuple[str, Dtype], float] = {("tflite", "int8"): 0.75, ("onnx", "int8"): 0.85}
SLOWER_RULE = (
    f"slower: in two sessions with files opened afresh, the median over rounds of ours / stock is "
    f"above {TOLERATED_RATIO} and its {CONFIDENCE:.0%} interval (sign test) above 1"
)


class Key(NamedTuple):
    """One comparison of the table."""

    model: str
    format: str
    dtype: Dtype


@dataclass(frozen=True)
class Session:
    """Ratios ours / stock of one comparison, one of each round."""

    round_ratios: tuple[float, ...]

    @property
    def ratio(self) -> float:
        ordered = sorted(self.round_ratios)
        middle = len(ordered) // 2
        return (ordered[middle] + ordered[-1 - middle]) / 2

    @property
    def looks_slower(self) -> bool:
        return self.ratio > TOLERATED_RATIO and median_interval(self.round_ratios)[0] > 1


@dataclass(frozen=True)
class Goal:
    """``missed_by`` are the comparisons that stand in its way; ``value`` is what was reached.

    ``met`` is None where nothing was measured that could tell.
    """

    name: str
    value: str
    met: bool | None
    missed_by: tuple[Key, ...] = ()


def median_interval(
    values: Sequence[float], confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """The narrowest pair of order statistics that has the median with ``confidence``.

    Of independent values from any distribution, k of n are below the median with the binomial
    probability for 1/2. Too few values for the confidence have no bounds: (-inf, inf).
    """
    ordered, count = sorted(values), len(values)
    outside, rank = 2 * 0.5**count, 0
    if outside > 1 - confidence:
        return -math.inf, math.inf
    while (wider := outside + 2 * math.comb(count, rank + 1) * 0.5**count) <= 1 - confidence:
        outside, rank = wider, rank + 1
    return ordered[rank], ordered[-1 - rank]


def geometric_mean(values: Iterable[float]) -> float:
    """nan of none."""
    logs = [math.log(value) for value in values]
    return math.exp(math.fsum(logs) / len(logs)) if logs else math.nan


def is_slower(sessions: Sequence[Session]) -> bool:
    """See ``SLOWER_RULE``; one session alone is not enough."""
    return len(sessions) > 1 and all(session.looks_slower for session in sessions)


def attention_ratios(
    sessions: Mapping[Key, Sequence[Session]], format_: str, dtype: Dtype
) -> dict[Key, float]:
    """The first session's ratio of each model with attention that was measured."""
    return {
        key: found[0].ratio
        for key, found in sessions.items()
        if (key.format, key.dtype) == (format_, dtype) and key.model.startswith(ATTENTION_FAMILIES)
    }


def goals(sessions: Mapping[Key, Sequence[Session]]) -> list[Goal]:
    """All goals, for the comparisons in ``sessions``."""
    return [*_model_goals(sessions), *_mean_goals(sessions), _never_slower(sessions)]


def _model_goals(sessions: Mapping[Key, Sequence[Session]]) -> Iterable[Goal]:
    for model, limit in MODEL_LIMITS.items():
        key = Key(model, "tflite", "int8")
        name = f"{model} int8 TFLite <= {limit:.2f}"
        if key not in sessions:
            yield Goal(name, "not measured", None)
            continue
        ratio = sessions[key][0].ratio
        met = ratio <= limit
        yield Goal(name, f"{ratio:.3f}", met, () if met else (key,))


def _mean_goals(sessions: Mapping[Key, Sequence[Session]]) -> Iterable[Goal]:
    for (format_, dtype), limit in MEAN_LIMITS.items():
        ratios = attention_ratios(sessions, format_, dtype)
        mean = geometric_mean(ratios.values())
        name = f"geometric mean of {len(ratios)} attention models, {dtype} {format_}"
        value = f"{mean:.3f}" if ratios else "not measured"
        met = mean <= limit if ratios else None
        over = () if met else tuple(key for key, ratio in ratios.items() if ratio > limit)
        yield Goal(f"{name} <= {limit:.2f}", value, met, over)


def _never_slower(sessions: Mapping[Key, Sequence[Session]]) -> Goal:
    slower = tuple(key for key, found in sessions.items() if is_slower(found))
    names = ", ".join(" ".join(key) for key in slower)
    value = f"{len(slower)} of {len(sessions)} comparisons slower" + (f": {names}" * bool(names))
    name = "no model slower than stock in any format"
    return Goal(name, value, not slower if sessions else None, slower)
