"""Image classification: one class an image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from mnv4_deploy.errors import InputError, UnsupportedError
from mnv4_deploy.images.records import DatasetImage
from mnv4_deploy.models.records import LOGITS
from mnv4_deploy.tasks.classification.records import TOP, TRUTH_ADVICE, OutputDrift
from mnv4_deploy.tasks.rows import Columns, ImageRows, output_columns
from mnv4_deploy.tasks.task import (
    BriefColumn,
    ClassNames,
    Metric,
    Model,
    Outputs,
    RunnableModel,
    Task,
)

if TYPE_CHECKING:
    from mnv4_deploy.images.sets import ImageSet
    from mnv4_deploy.profiles.records.files import FileFacts
    from mnv4_deploy.tasks.report import TaskReport

_Floats = npt.NDArray[np.float64]
_BUNDLED = "bundled"
# The least a probability counts as: 8-bit outputs round most of them to zero.
_LEAST_PROBABILITY = 1e-7
_SHOWN_DIFFERENCES = 4
_IMAGENET_HEADS = {1000, 1001}


class Classification(Task):
    """See the metrics; statistics are in ``statistics``, labels in ``dataset``."""

    name = "classification"
    outputs = (LOGITS,)
    budget = "top1_drop"
    largest_drop = 100.0
    accuracy = "top1"
    brief = (
        BriefColumn("top-1", "top1", "top1_reference"),
        BriefColumn("agree", "agreement"),
        BriefColumn("SQNR", "median_sqnr_db"),
    )
    truth_advice = TRUTH_ADVICE
    metrics: ClassVar[Mapping[str, Metric]] = {
        "top1": Metric("%", "top-1 accuracy of the candidate", truth=True),
        "top1_reference": Metric("%", "top-1 accuracy of the reference", truth=True),
        "top1_drop": Metric("points", "top-1 of the reference less the candidate's", truth=True),
        "top1_drop_high": Metric("points", "upper 95 % confidence limit of top1_drop", truth=True),
        "top5": Metric("%", "top-5 accuracy of the candidate", truth=True),
        "top5_drop": Metric("points", "top-5 of the reference less the candidate's", truth=True),
        "agreement": Metric("%", "images on which both give the same class"),
        "lost": Metric("images", "right in the reference, wrong in the candidate", truth=True),
        "gained": Metric("images", "wrong in the reference, right in the candidate", truth=True),
        "p_value": Metric("", "McNemar's exact test of lost against gained", truth=True),
        "sqnr_db": Metric("dB", "signal to quantization noise over all outputs together"),
        "median_sqnr_db": Metric("dB", "median over the images of the same"),
        "cosine": Metric("", "cosine similarity of the outputs, mean over the images"),
        "kl": Metric("nats", "KL divergence of the outputs, mean over the images"),
    }

    def find_images(
        self, data: str, split: str, model: Model, labels_file: str | None = None
    ) -> ImageSet:
        from mnv4_deploy.tasks.classification.dataset import bundled_images, folder_images
        from mnv4_deploy.tasks.classification.labels import Head

        head = Head.of(model)
        if data == _BUNDLED:
            return bundled_images("calibration" if split == "calibration" else "evaluation", head)
        return folder_images(Path(data), head, labels_file)

    def name_classes(
        self, model: Model, source: str, data: str, labels_file: str | None
    ) -> ClassNames:
        from mnv4_deploy.tasks.classification.class_names import name_classes

        folder = None if data == _BUNDLED else Path(data)
        return name_classes(model, source, folder, labels_file)

    def recognise(self, facts: FileFacts) -> tuple[int, bool]:
        from mnv4_deploy.tasks.classification.signature import declared_classes, ends_in_softmax

        return declared_classes(facts) or 0, ends_in_softmax(facts)

    def check_shapes(self, name: str, shapes: Mapping[str, tuple[int, ...]]) -> int:
        found = list(shapes.values())
        if len(found) != 1 or len(found[0]) != 2 or found[0][0] != 1:
            raise UnsupportedError(
                f"{name} gives outputs of shape {', '.join(str(list(s)) for s in found)} for an "
                "image: a classifier has one output [images, classes]."
            )
        return found[0][1]

    def differences(self, reference: Model, candidate: Model) -> list[tuple[str, str, str]]:
        from mnv4_deploy.tasks.classification.labels import names_of

        if {reference.num_classes, candidate.num_classes} == _IMAGENET_HEADS:
            larger = max(reference, candidate, key=lambda model: model.num_classes)
            raise InputError(
                f"{reference.name} has {reference.num_classes} classes and {candidate.name} has "
                f"{candidate.num_classes}: in {larger.name} TensorFlow's background class comes "
                "first and shifts every other by one, so give two models with it or two without."
            )
        if reference.num_classes != candidate.num_classes:
            return [("classes", str(reference.num_classes), str(candidate.num_classes))]
        return [
            (f"class {index}", repr(mine), repr(theirs))
            for index, (mine, theirs) in enumerate(
                zip(reference.labels, candidate.labels, strict=False)
            )
            if not names_of(mine) & names_of(theirs)
        ][:_SHOWN_DIFFERENCES]

    def columns(
        self,
        reference: Outputs,
        candidate: Outputs,
        truth: Sequence[Any],
        models: tuple[RunnableModel, RunnableModel],
    ) -> Columns:
        (r,), (c,) = (
            [values.astype(np.float64) for values in outputs.values()]
            for outputs in (reference, candidate)
        )
        log_r, log_c = (
            _log_probabilities(values, model.probabilities)
            for values, model in zip((r, c), models, strict=True)
        )
        top = min(TOP, r.shape[1])
        return {
            "label": np.array([-1 if label is None else label for label in truth], np.int32),
            "reference_top": _best(r, top),
            "candidate_top": _best(c, top),
            **output_columns(reference, candidate),
            "kl": np.maximum((np.exp(log_r) * (log_r - log_c)).sum(axis=1), 0.0),
        }

    def summarise(
        self, rows: ImageRows, images: Sequence[DatasetImage], labels: tuple[str, ...]
    ) -> OutputDrift:
        from mnv4_deploy.tasks.classification.statistics import summarise

        return summarise(rows, images, labels)

    def figures(self, summary: OutputDrift) -> dict[str, float | None]:
        reference, candidate, flips = summary.reference, summary.candidate, summary.flips
        return {
            "top1": candidate.top1.percent if candidate else None,
            "top1_reference": reference.top1.percent if reference else None,
            "top1_drop": summary.top1_drop,
            "top1_drop_high": summary.top1_drop_high,
            "top5": candidate.top5.percent if candidate and candidate.top5 else None,
            "top5_drop": summary.top5_drop,
            "agreement": summary.agreement.percent,
            "lost": flips.lost if flips else None,
            "gained": flips.gained if flips else None,
            "p_value": flips.p_value if flips else None,
            "sqnr_db": summary.sqnr_db,
            "median_sqnr_db": summary.median_sqnr_db,
            "cosine": summary.cosine,
            "kl": summary.kl,
        }

    def undecidable(self, metric: str, model: Model) -> str:
        if metric.startswith("top5") and 0 < model.num_classes <= TOP:
            return (
                f"needs more than {TOP} classes, and there are {model.num_classes}: limit "
                "top1_drop instead"
            )
        return ""

    def doubts(self, summary: OutputDrift) -> dict[str, str]:
        if not summary.label_doubt:
            return {}
        return {name: summary.label_doubt for name, metric in self.metrics.items() if metric.truth}

    def chance(self, summary: OutputDrift) -> float:
        """Of images whose answer changed, each at random."""
        changed = max(1.0, summary.labelled * (1 - summary.agreement.percent / 100))
        return 100 * math.sqrt(changed) / max(1, summary.labelled)

    def interval(self, summary: OutputDrift) -> tuple[float, float] | None:
        low, high = summary.top1_drop_low, summary.top1_drop_high
        return None if low is None or high is None else (low, high)

    def report(self, summary: OutputDrift, models: tuple[Model, Model]) -> TaskReport:
        from mnv4_deploy.tasks.classification.report import make_report

        return make_report(summary, models[1].labels or models[0].labels)


CLASSIFICATION = Classification()


def _log_probabilities(outputs: _Floats, probabilities: bool) -> _Floats:
    logs = np.log(np.maximum(outputs, _LEAST_PROBABILITY)) if probabilities else outputs
    shifted = logs - logs.max(axis=1, keepdims=True)
    normalised: _Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return normalised


def _best(outputs: _Floats, count: int) -> npt.NDArray[np.int32]:
    return np.argsort(-outputs, axis=1, kind="stable")[:, :count].astype(np.int32)
