"""Conditions that fail a run: ``--fail-if "top1_drop > 0.5"``.

A condition is METRIC OP NUMBER with OP one of > >= < <=. The metrics are those of the task and
``OWN_METRICS``. ``parse`` needs no result, so that a typing error shows before the slow part, as
does what ``check_decidable`` finds; ``check`` compares when the results are there.
"""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from mnv4_deploy.drift.records import Limit
from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.layers.records import LayersDrift
from mnv4_deploy.tasks.task import Metric, Model, Summary, Task

OWN_METRICS: Mapping[str, Metric] = {
    "worst_layer_sqnr_db": Metric("dB", "lowest isolated SQNR of any layer", layers=True),
    "skipped": Metric("images", "files that could not be used"),
}
_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_CONDITION = re.compile(
    r"\s*(?P<metric>\w+)\s*(?P<op>>=|<=|>|<)"
    r"\s*(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*",
    re.ASCII | re.IGNORECASE,
)
_SHOWN = 60


@dataclass(frozen=True)
class Condition:
    """A parsed condition: the run fails where ``metric op bound`` holds."""

    text: str
    metric: str
    op: str
    bound: float

    def holds(self, value: float) -> bool:
        """Whether ``value`` fails the run; one that is not a number never passes."""
        return math.isnan(value) or _OPERATORS[self.op](value, self.bound)


def known_metrics(task: Task) -> dict[str, Metric]:
    """Everything that can be limited, by its name."""
    return {**task.metrics, **OWN_METRICS}


def parse(texts: Iterable[str], task: Task) -> tuple[Condition, ...]:
    """The conditions in ``texts``.

    Raises UnsupportedError for a text that is no condition and for an unknown metric.
    """
    known = known_metrics(task)
    return tuple(_parse(text, known) for text in texts)


def check_decidable(
    texts: Iterable[str], task: Task, model: Model, *, labelled: bool, layers: bool = True
) -> None:
    """Raise UnsupportedError for a condition that the run will not be able to decide.

    ``labelled``: some images have known answers; ``layers``: layers will be compared.
    """
    known = known_metrics(task)
    for condition in parse(texts, task):
        metric, shown = known[condition.metric], _short(condition.text)
        if metric.truth and not labelled:
            free = next(name for name, other in task.metrics.items() if not other.truth)
            raise UnsupportedError(
                f"--fail-if '{shown}' needs the true answers, and these images have none: "
                f"{task.truth_advice}, or limit {free} instead."
            )
        if metric.layers and not layers:
            raise UnsupportedError(
                f"--fail-if '{shown}' needs the comparison of layers: leave --layer-images 0 out."
            )
        if why := task.undecidable(condition.metric, model):
            raise UnsupportedError(f"--fail-if '{shown}' {why}.")


def check(
    texts: Iterable[str],
    task: Task,
    values: Mapping[str, float | None],
    doubts: Mapping[str, str] | None = None,
) -> tuple[Limit, ...]:
    """Each of ``texts`` against the ``values`` that :func:`metrics` gives.

    ``doubts`` say why some of them decide nothing.

    Raises UnsupportedError as :func:`parse` does, and where a value is None.
    """
    known = known_metrics(task)
    limits = []
    for condition in parse(texts, task):
        value = values[condition.metric]
        if value is None:
            raise UnsupportedError(
                f"--fail-if '{_short(condition.text)}' cannot be decided: this run has no "
                f"{condition.metric} ({known[condition.metric].meaning}), so limit another "
                "metric."
            )
        doubt = (doubts or {}).get(condition.metric, "")
        fails = condition.holds(value)
        limits.append(Limit(condition.text, condition.metric, value, fails, doubt))
    return tuple(limits)


def metrics(
    task: Task, output: Summary, layers: LayersDrift | None, skipped: int
) -> dict[str, float | None]:
    """The value of every metric, in its unit; None where it is not known.

    ``skipped`` is the number of files that could not be used.
    """
    compared = layers.layers if layers else ()
    isolated = [layer.isolated.sqnr_db for layer in compared if layer.isolated]
    return {
        **task.figures(output),
        "worst_layer_sqnr_db": min(isolated, default=None),
        "skipped": skipped,
    }


def _parse(text: str, known: Mapping[str, Metric]) -> Condition:
    match = _CONDITION.fullmatch(text)
    if match is None:
        several = re.search(r"\b(and|or)\b|&|\||,", text, re.IGNORECASE)
        advice = (
            "give --fail-if once for each condition"
            if several
            else "write METRIC OP NUMBER with OP one of > >= < <=, as in 'top1_drop > 0.5'"
        )
        raise UnsupportedError(f"--fail-if '{_short(text)}' is not one condition: {advice}.")
    metric = match["metric"].lower()
    if metric not in known:
        nearest = difflib.get_close_matches(metric, known, n=1)
        hint = f"did you mean {nearest[0]}? " if nearest else ""
        raise UnsupportedError(
            f"--fail-if knows no metric '{_short(match['metric'])}': {hint}There are "
            f"{', '.join(known)}."
        )
    bound = float(match["number"])
    if math.isinf(bound):
        raise UnsupportedError(
            f"--fail-if '{_short(text)}' has a number too large to compare with: give one within "
            "1e308."
        )
    return Condition(" ".join(text.split()), metric, match["op"], bound)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"
