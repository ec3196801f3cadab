"""Conditions that fail a run: ``--fail-if "top1_drop > 0.5"``.

A condition is METRIC OP NUMBER with OP one of > >= < <=. ``parse`` needs no result, so that a
typing error shows before the slow part, as does what ``check_labels`` finds; ``check`` compares
when the results are there.
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
from mnv4_deploy.tasks.classification.records import TOP, OutputDrift


@dataclass(frozen=True)
class Metric:
    """What can be limited: its unit ("" for plain numbers), its meaning and what it needs."""

    unit: str
    meaning: str
    labels: bool = False
    layers: bool = False


METRICS: Mapping[str, Metric] = {
    "top1": Metric("%", "top-1 accuracy of the candidate", labels=True),
    "top1_reference": Metric("%", "top-1 accuracy of the reference", labels=True),
    "top1_drop": Metric("points", "top-1 of the reference less the candidate's", labels=True),
    "top1_drop_high": Metric("points", "upper 95 % confidence limit of top1_drop", labels=True),
    "top5": Metric("%", "top-5 accuracy of the candidate", labels=True),
    "top5_drop": Metric("points", "top-5 of the reference less the candidate's", labels=True),
    "agreement": Metric("%", "images on which both give the same class"),
    "lost": Metric("images", "right in the reference, wrong in the candidate", labels=True),
    "gained": Metric("images", "wrong in the reference, right in the candidate", labels=True),
    "p_value": Metric("", "McNemar's exact test of lost against gained", labels=True),
    "sqnr_db": Metric("dB", "signal to quantization noise over all outputs together"),
    "median_sqnr_db": Metric("dB", "median over the images of the same"),
    "cosine": Metric("", "cosine similarity of the outputs, mean over the images"),
    "kl": Metric("nats", "KL divergence of the outputs, mean over the images"),
    "worst_layer_sqnr_db": Metric("dB", "lowest SQNR of any layer quantized alone", layers=True),
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


def parse(texts: Iterable[str]) -> tuple[Condition, ...]:
    """The conditions in ``texts``.

    Raises UnsupportedError for a text that is no condition and for an unknown metric.
    """
    return tuple(map(_parse, texts))


def check_labels(
    texts: Iterable[str], *, labelled: bool, layers: bool = True, classes: int | None = None
) -> None:
    """Raise UnsupportedError for a condition that the run will not be able to decide.

    ``labelled``: some images have true classes; ``layers``: layers will be compared;
    ``classes``: how many there are, None if that is not known yet.
    """
    for condition in parse(texts):
        metric, shown = METRICS[condition.metric], _short(condition.text)
        if metric.labels and not labelled:
            raise UnsupportedError(
                f"--fail-if '{shown}' needs the true classes, and these images have none: give "
                "labelled images, or limit agreement instead."
            )
        if metric.layers and not layers:
            raise UnsupportedError(
                f"--fail-if '{shown}' needs the comparison of layers: leave --layer-images 0 out."
            )
        if classes is not None and classes <= TOP and condition.metric.startswith("top5"):
            raise UnsupportedError(
                f"--fail-if '{shown}' needs more than {TOP} classes, and there are {classes}: "
                "limit top1_drop instead."
            )


def check(texts: Iterable[str], values: Mapping[str, float | None]) -> tuple[Limit, ...]:
    """Each of ``texts`` against the ``values`` that :func:`metrics` gives.

    Raises UnsupportedError as :func:`parse` does, and where a value is None.
    """
    limits = []
    for condition in parse(texts):
        value = values[condition.metric]
        if value is None:
            raise UnsupportedError(
                f"--fail-if '{_short(condition.text)}' cannot be decided: this run has no "
                f"{condition.metric} ({METRICS[condition.metric].meaning}), so limit another "
                "metric."
            )
        limits.append(Limit(condition.text, condition.metric, value, condition.holds(value)))
    return tuple(limits)


def metrics(
    output: OutputDrift, layers: LayersDrift | None, skipped: int
) -> dict[str, float | None]:
    """The value of every metric in METRICS, in its unit; None where it is not known.

    ``skipped`` is the number of files that could not be used.
    """
    reference, candidate, flips = output.reference, output.candidate, output.flips
    compared = layers.layers if layers else ()
    isolated = [layer.isolated.sqnr_db for layer in compared if layer.isolated]
    return {
        "top1": candidate.top1.percent if candidate else None,
        "top1_reference": reference.top1.percent if reference else None,
        "top1_drop": output.top1_drop,
        "top1_drop_high": output.top1_drop_high,
        "top5": candidate.top5.percent if candidate and candidate.top5 else None,
        "top5_drop": output.top5_drop,
        "agreement": output.agreement.percent,
        "lost": flips.lost if flips else None,
        "gained": flips.gained if flips else None,
        "p_value": flips.p_value if flips else None,
        "sqnr_db": output.sqnr_db,
        "median_sqnr_db": output.median_sqnr_db,
        "cosine": output.cosine,
        "kl": output.kl,
        "worst_layer_sqnr_db": min(isolated, default=None),
        "skipped": skipped,
    }


def _parse(text: str) -> Condition:
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
    if metric not in METRICS:
        nearest = difflib.get_close_matches(metric, METRICS, n=1)
        hint = f"did you mean {nearest[0]}? " if nearest else ""
        raise UnsupportedError(
            f"--fail-if knows no metric '{_short(match['metric'])}': {hint}There are "
            f"{', '.join(METRICS)}."
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
