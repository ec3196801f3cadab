"""The search's decisions: what is tried next, what is adopted, and when to stop.

    1  calibration as asked for
    2  the other calibration methods
    3  cross-layer equalization
    4  bias correction
    5  optimised rounding
    6  one after another, the layers and blocks that bring most per millisecond in float or int16x8

It stops at the first trial that meets the budget. What a file is and how it is measured is the
trial runner's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, get_args

from mnv4_deploy.exporters.ranges import RangeMethod
from mnv4_deploy.exporters.records import (
    BudgetSearch,
    Int8Choice,
    LayerPrecision,
    NotTried,
    Sensitivity,
    Trial,
)
from mnv4_deploy.tasks.classification.task import CLASSIFICATION
from mnv4_deploy.tasks.task import Task

# Of two files with as many errors, one is better from here on: 5 % less noise in the outputs.
CLEARLY_DB = 0.2
# A layer outside int8 must take this part of the outputs' noise with it to be worth a file.
_LEAST_GAIN = 0.01
# int8 may give back this part of the time it saves against float32, and always 10 %.
_SPENT = 0.5
_FREE = 1.1
# Drops differ by much more than this, or not at all.
_SAME = 1e-9
_WEIGHT_CHANGES: tuple[tuple[str, Callable[[Int8Choice], Int8Choice]], ...] = (
    ("equalization", lambda choice: replace(choice, equalize=True)),
    ("bias correction", lambda choice: replace(choice, correct_bias=True)),
    ("rounding", lambda choice: replace(choice, optimise_rounding=True)),
)


@dataclass(frozen=True)
class Step:
    """Something to try."""

    name: str
    choice: Int8Choice


class TrialRunner(Protocol):
    """Makes and measures the files of one format."""

    def measure(self, title: str, steps: Sequence[Step]) -> Sequence[Trial | NotTried]:
        """Each step's file on the held-out images, or why there is none."""

    def float_latency_ratio(self) -> float:
        """How much longer the float32 file takes than the first trial's."""

    def sensitivities(self, choice: Int8Choice) -> Sequence[Sensitivity | NotTried]:
        """What the most damaging layers of this choice's file bring outside int8."""


def run_search(
    first: Trial,
    max_drop: float,
    trial_runner: TrialRunner,
    task: Task = CLASSIFICATION,
    *,
    confident: bool = False,
) -> BudgetSearch:
    """Go up from ``first`` until a file's ``task.budget`` metric is at most ``max_drop``.

    ``confident``: until the upper end of its 95 % interval is.

    A trial is adopted if it meets the budget, if its file makes fewer errors than chance explains,
    or about as many with clearly less noise in the outputs; later trials build on what was
    adopted. A few images more or less are chance: following them leads away from the quieter
    file, which is the one that the next trials need.
    """
    return _Search(first, max_drop, trial_runner, task, confident).run()


def latency_limit(float_ratio: float) -> float:
    """The largest acceptable latency over the first file's, if float32 takes ``float_ratio``.

    A file beyond it has given back half of what int8 saves: float32 is then the better choice.
    """
    return max(_FREE, 1 + _SPENT * (float_ratio - 1))


class _Search:
    def __init__(
        self,
        first: Trial,
        max_drop: float,
        trial_runner: TrialRunner,
        task: Task,
        confident: bool,
    ) -> None:
        self.max_drop, self.confident = max_drop, confident
        self.metric, self.unit = task.budget, task.metrics[task.budget].unit
        self.trial_runner = trial_runner
        self.trials = [replace(first, adopted=True)]
        self.not_tried: list[NotTried] = []
        self.sensitivities: tuple[Sensitivity, ...] = ()
        self.base = self.trials[0]
        self.limit: float | None = None

    @property
    def met(self) -> bool:
        return self._meets(self.base)

    def run(self) -> BudgetSearch:
        if not self.met:
            self.limit = latency_limit(self.trial_runner.float_latency_ratio())
            self._calibration()
        for name, change in _WEIGHT_CHANGES:
            if not self.met:
                self._try(name, [Step(name, change(self.base.choice))])
        if not self.met:
            self._layers()
        adopted = [trial for trial in self.trials if trial.adopted]
        return BudgetSearch(
            format=self.base.format,
            max_drop=self.max_drop,
            confident=self.confident,
            metric=self.metric,
            unit=self.unit,
            trials=tuple(self.trials),
            chosen=self.base if self.met else min(adopted, key=_rank),
            met=self.met,
            not_tried=tuple(self.not_tried),
            sensitivities=self.sensitivities,
            latency_limit=self.limit,
        )

    def _calibration(self) -> None:
        asked = self.base.choice
        self._try(
            "other calibration methods",
            [
                Step(f"calibration {method}", replace(asked, method=method))
                for method in get_args(RangeMethod)
                if method != asked.method
            ],
        )

    def _layers(self) -> None:
        """Layer by layer, the best bargain first, as long as the budget is not met."""
        assert self.limit is not None
        found = self.trial_runner.sensitivities(self.base.choice)
        self.not_tried += [result for result in found if isinstance(result, NotTried)]
        measured = [result for result in found if isinstance(result, Sensitivity)]
        self.sensitivities = tuple(judged(measured, self.limit))
        for layer in self.sensitivities:
            choice = self.base.choice.with_layers(layer.modules, layer.precision)
            if self.met or layer.reason or choice == self.base.choice:
                continue
            name = layer_name(layer.module, layer.precision)
            self._try(name, [Step(name, choice)])

    def _try(self, title: str, steps: Sequence[Step]) -> None:
        """Measure ``steps``, adopt the best of them if it helps, and refuse the others."""
        assert self.limit is not None
        results = self.trial_runner.measure(title, steps)
        self.not_tried += [result for result in results if isinstance(result, NotTried)]
        tried = [result for result in results if isinstance(result, Trial)]
        # Against the best so far: small losses, each by chance, must not add up.
        fewest = min(trial.drop for trial in self.trials if trial.adopted)
        reasons = [
            objection(trial, self.base, fewest, self.limit, self.unit, met=self._meets(trial))
            for trial in tried
        ]
        good = [trial for trial, reason in zip(tried, reasons, strict=True) if not reason]
        best = min(good, key=self._bargain, default=None)
        for trial, reason in zip(tried, reasons, strict=True):
            if best is None or trial is not best:
                why = reason or f"{best.name} is better" if best else reason
                self.trials.append(replace(trial, reason=why))
            else:
                self.trials.append(replace(trial, adopted=True))
                self.base = self.trials[-1]

    def _bargain(self, trial: Trial) -> tuple[bool, int, float]:
        """Within the budget first, then fewer errors as far as that is no chance, then SQNR."""
        errors = round(trial.drop / self.base.chance)
        return not self._meets(trial), errors, -trial.median_sqnr_db

    def _meets(self, trial: Trial) -> bool:
        drop = trial.interval[1] if self.confident else trial.drop
        return drop <= self.max_drop + _SAME


def objection(
    trial: Trial, base: Trial, fewest: float, limit: float, unit: str, *, met: bool
) -> str:
    """Why ``trial`` does not improve on ``base``, "" if it does.

    ``fewest`` is the smallest drop of any trial that was adopted, in ``unit``. ``met``: it is
    within the budget.
    """
    if trial.latency_ratio > limit:
        return (
            f"takes {trial.latency_ratio:.2f} times as long as the first file, and more than "
            f"{limit:.2f} leaves too little of what int8 saves"
        )
    lost, chance = trial.drop - fewest, base.chance
    quieter_db = trial.median_sqnr_db - base.median_sqnr_db
    if met or lost < -chance - _SAME:
        return ""
    if lost > chance + _SAME:
        return f"drops {lost:.2f} {unit} more than the best so far, and {chance:.2f} are chance"
    if quieter_db < CLEARLY_DB:
        return f"errors within chance ({lost:+.2f} {unit}), and {quieter_db:+.2f} dB"
    return ""


def layer_name(module: str, precision: LayerPrecision) -> str:
    """What a trial with one more layer outside int8 is called."""
    return f"{module} in {precision}"


def judged(found: Sequence[Sensitivity], limit: float) -> Iterator[Sensitivity]:
    """``found`` by falling gain per millisecond, hopeless ones with the reason."""
    for layer in sorted(found, key=lambda s: (-s.gain_per_ms, s.module, s.precision)):
        reason = ""
        if layer.noise_after > (1 - _LEAST_GAIN) * layer.noise_before:
            reason = "the outputs have hardly less noise, or more"
        elif layer.latency_ratio > limit:
            reason = f"takes {layer.latency_ratio:.2f} times as long as the first file"
        yield replace(layer, reason=reason)


def _rank(trial: Trial) -> tuple[float, float]:
    """Fewer errors first, then less noise."""
    return round(trial.drop, 6), -trial.median_sqnr_db
