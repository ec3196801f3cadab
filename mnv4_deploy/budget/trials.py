"""Builds and measures what the search tries, for one format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mnv4_deploy.budget.build import Builder
from mnv4_deploy.budget.latency import latencies
from mnv4_deploy.budget.search import Step, layer_name
from mnv4_deploy.budget.sensitivity import Suspect, gain_per_ms, most_damaging
from mnv4_deploy.errors import DeployError
from mnv4_deploy.exporters.evaluation import Evaluation
from mnv4_deploy.exporters.job import FileJob, in_parallel
from mnv4_deploy.exporters.records import (
    Drift,
    Int8Choice,
    LayerPrecision,
    NotTried,
    Sensitivity,
    Trial,
)
from mnv4_deploy.images.records import Pixels
from mnv4_deploy.profiles.records.graph import Format
from mnv4_deploy.progress import Progress
from mnv4_deploy.sessions.outputs import Outputs, paired
from mnv4_deploy.tasks.rows import noise_share, output_columns

_LAYERS = 8
_DAMAGE_IMAGES = 16
_SENSITIVITY_IMAGES = 100
# The metric of noise that every task has.
_NOISE = "median_sqnr_db"
# Files that are loaded and timed together.
_TOGETHER = 6
# What is suspected, and what it is to be instead of int8.
_Try = tuple[Suspect, LayerPrecision]


@dataclass(frozen=True)
class HeldOut:
    """The held-out images and what the float32 file of each format makes of them."""

    evaluation: Evaluation
    fp32: Mapping[Format, Outputs]


class FileTrialRunner:
    """The trial runner of one format. ``files`` and ``drifts`` have what was measured, by choice.

    ``first`` is the int8 file that the search starts from.
    """

    def __init__(self, builder: Builder, first: Path, held: HeldOut, progress: Progress) -> None:
        self.files: dict[Int8Choice, Path] = {}
        self.drifts: dict[Int8Choice, Drift] = {}
        self._builder = builder
        self._job: FileJob = builder.job
        self._first = first
        self._evaluation = held.evaluation
        self._fp32 = held.fp32[builder.format]
        self._progress = progress
        self._first_us = latencies([first]).median_us
        self._first_bytes = first.stat().st_size
        self._title = f"Budget, {builder.format}"

    def first_trial(self, choice: Int8Choice, drift: Drift) -> Trial:
        """The file that is there already."""
        self.files[choice], self.drifts[choice] = self._first, drift
        return self._trial(Step(f"calibration {choice.method}", choice), 1.0)

    def measure(self, title: str, steps: Sequence[Step]) -> Sequence[Trial | NotTried]:
        """Build, run and time a file for each step."""
        with self._progress.stage(f"{self._title}: {title}"):
            made = self._build([step.choice for step in steps])
            paths = [path for path in made if isinstance(path, Path)]
            outputs = dict(zip(paths, in_parallel(self._evaluate, paths), strict=True))
            ratios = dict(zip(paths, self._ratios(paths), strict=True))
            results: list[Trial | NotTried] = []
            for step, path in zip(steps, made, strict=True):
                if isinstance(path, str):
                    results.append(NotTried(step.name, path))
                    continue
                self.files[step.choice] = path
                self.drifts[step.choice] = outputs[path]
                results.append(self._trial(step, ratios[path]))
        return results

    def float_latency_ratio(self) -> float:
        """How much longer the float32 file takes than the first."""
        with self._progress.stage(f"{self._title}: time float32"):
            return self._ratios([self._job.path(self._builder.format, "fp32")])[0]

    def sensitivities(self, choice: Int8Choice) -> Sequence[Sensitivity | NotTried]:
        """Files with one more layer outside int8, for the layers that damage most."""
        with self._progress.stage(f"{self._title}: most damaging layers"):
            images = self._job.calibration_sample(_SENSITIVITY_IMAGES)
            suspects = most_damaging(
                self._builder.float_file(choice),
                self.files[choice],
                self._job,
                images[:_DAMAGE_IMAGES],
                _LAYERS,
            )
        tries = [(suspect, precision) for suspect in suspects for precision in self._precisions()]
        with self._progress.stage(f"{self._title}: layers outside int8"):
            fp32 = self._job.run(self._job.path(self._builder.format, "fp32"), images)
            before = _noise(self._job.run(self.files[choice], images), fp32)
            found: list[Sensitivity | NotTried] = []
            for start in range(0, len(tries), _TOGETHER):
                group = tries[start : start + _TOGETHER]
                found += self._sensitive(choice, group, images, fp32, before)
        return found

    def _sensitive(
        self,
        choice: Int8Choice,
        tries: Sequence[_Try],
        images: Pixels,
        fp32: Outputs,
        before: float,
    ) -> Iterator[Sensitivity | NotTried]:
        """Some layers, whose files are gone when this is done."""
        made = self._build([choice.with_layers(s.modules, precision) for s, precision in tries])
        paths = [path for path in made if isinstance(path, Path)]
        outputs = in_parallel(lambda path: self._job.run(path, images), paths)
        own, *ratios = self._ratios([self.files[choice], *paths])
        measured = dict(zip(paths, zip(outputs, ratios, strict=True), strict=True))
        for (suspect, precision), path in zip(tries, made, strict=True):
            if isinstance(path, str):
                yield NotTried(layer_name(suspect.module, precision), path)
                continue
            found, ratio = measured[path]
            path.unlink()
            after = _noise(found, fp32)
            added_us = (ratio - own) * self._first_us
            yield Sensitivity(
                module=suspect.module,
                modules=suspect.modules,
                precision=precision,
                damage=suspect.damage,
                noise_before=before,
                noise_after=after,
                added_us=added_us,
                latency_ratio=ratio,
                gain_per_ms=gain_per_ms(before - after, added_us, own * self._first_us),
            )

    def _precisions(self) -> tuple[LayerPrecision, ...]:
        """What a layer can be besides int8: onnxruntime has no int16, some targets no float."""
        if self._job.request.targets.tflite == "integer-only" and self._builder.format == "tflite":
            return ("int16x8",)
        return ("float",) if self._builder.format == "onnx" else ("float", "int16x8")

    def _build(self, choices: Sequence[Int8Choice]) -> tuple[Path | str, ...]:
        """A file for each choice, or why there is none."""
        refusals: dict[Int8Choice, str] = {}
        for choice in choices:
            try:
                self._builder.prepare(choice)
            except DeployError as error:
                refusals[choice] = str(error)

        def build(choice: Int8Choice) -> Path | str:
            if choice in refusals:
                return refusals[choice]
            try:
                return self._builder.int8_file(choice)
            except DeployError as error:
                return str(error)

        return in_parallel(build, choices)

    def _evaluate(self, path: Path) -> Drift:
        name = self._job.path(self._builder.format, "int8").name
        outputs = self._job.run(path, self._evaluation.pixels)
        return self._evaluation.drift(name, outputs, self._fp32)

    def _ratios(self, paths: Sequence[Path]) -> tuple[float, ...]:
        """Latencies over the first file's, which takes part in every round."""
        ratios: list[float] = []
        for start in range(0, len(paths), _TOGETHER):
            ratios += latencies([self._first, *paths[start : start + _TOGETHER]]).ratios[1:]
        return tuple(ratios)

    def _trial(self, step: Step, latency_ratio: float) -> Trial:
        drift = self.drifts[step.choice]
        size_bytes = self.files[step.choice].stat().st_size
        drop, sqnr_db = drift.figures[self._evaluation.task.budget], drift.figures[_NOISE]
        assert drop is not None and sqnr_db is not None and drift.interval is not None
        return Trial(
            format=self._builder.format,
            name=step.name,
            choice=step.choice,
            drop=drop,
            interval=drift.interval,
            chance=drift.chance,
            median_sqnr_db=sqnr_db,
            latency_us=latency_ratio * self._first_us,
            latency_ratio=latency_ratio,
            size_bytes=size_bytes,
            size_ratio=size_bytes / self._first_bytes,
            images=drift.labelled,
            figures=drift.figures,
        )


def _noise(outputs: Outputs, fp32: Outputs) -> float:
    return noise_share(output_columns(fp32, paired(fp32, outputs)))
