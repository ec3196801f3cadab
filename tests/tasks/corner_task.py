"""A made-up second task, whole: where four corners are in an image, and how large each is.

A regression with two outputs of rank 3, its own preparation of images, right answers from a file
of its own, and a budget in pixels.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from mnv4_deploy.errors import ImagesError, UnsupportedError
from mnv4_deploy.images.records import DatasetImage, Pixels
from mnv4_deploy.images.sets import ImageSet, open_folder
from mnv4_deploy.models.records import OutputSpec, Preprocessing, WeightsSource
from mnv4_deploy.models.weights import ReferenceModel
from mnv4_deploy.profiles.records.files import FileFacts
from mnv4_deploy.tasks.report import Comparison, ImageCard, Measured, TaskReport
from mnv4_deploy.tasks.rows import Columns, ImageRows, output_columns, output_figures
from mnv4_deploy.tasks.task import BriefColumn, Metric, Model, Outputs, RunnableModel, Task

if TYPE_CHECKING:
    from PIL import Image

SIDE, CORNERS = 32, 4
TRUTH = "corners.json"
SPEC = Preprocessing(SIDE, SIDE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
OUTPUTS = (OutputSpec("points"), OutputSpec("sizes", whole_range=True))


class Net(nn.Module):
    """One of its modules is called like the output that it makes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.body = nn.Conv2d(16, 16, 3, stride=2, padding=1)
        self.points = nn.Linear(16, 2 * CORNERS)
        self.size_head = nn.Linear(16, CORNERS)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = torch.relu(self.body(torch.relu(self.stem(x)))).mean((2, 3))
        return {
            "points": self.points(x).reshape(-1, CORNERS, 2),
            "sizes": self.size_head(x).reshape(-1, CORNERS, 1),
        }


@dataclass(frozen=True)
class CornerSource:
    """A network of nobody's zoo, made where it is needed."""

    seed: int = 0
    name: str = "corners"
    weights: str = "made"
    file: str = ""

    def read_from(self, path: Path) -> CornerSource:
        del path
        return self

    def check(self) -> None:
        pass

    def load(self, size: tuple[int, int] | None = None) -> ReferenceModel:
        torch.manual_seed(self.seed)
        module = Net().eval()
        with torch.no_grad():
            module.points.weight *= 20
            module.size_head.weight *= 5
        height, width = size or (SIDE, SIDE)
        spec = dataclasses.replace(SPEC, height=height, width=width)
        source = WeightsSource("file", "made")
        return ReferenceModel(self.name, module, spec, (), source, 1, 0, OUTPUTS)


@dataclass(frozen=True)
class CornerImage:
    """``moved_px`` is how far the candidate's corners are from the reference's on average."""

    name: str
    path: str
    moved_px: float


@dataclass(frozen=True)
class CornerDrift:
    """Mean absolute errors are in pixels, None without known corners."""

    images: int
    labelled: int
    mae_px: float | None
    mae_reference_px: float | None
    standard_error_px: float
    sqnr_db: float
    median_sqnr_db: float
    cosine: float
    worst: tuple[CornerImage, ...]


class Corners(Task):
    name = "corners"
    outputs = OUTPUTS
    budget = "mae_increase_px"
    largest_drop = float(SIDE)
    accuracy = "mae_px"
    brief = (BriefColumn("MAE", "mae_px", "mae_reference_px"), BriefColumn("SQNR", "sqnr_db"))
    truth_advice = f"give a folder with a {TRUTH}"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "mae_px": Metric("px", "mean absolute error of the candidate's corners", truth=True),
        "mae_reference_px": Metric("px", "the same of the reference's", truth=True),
        "mae_increase_px": Metric("px", "the candidate's less the reference's", truth=True),
        "sqnr_db": Metric("dB", "signal to quantization noise, worst output"),
        "median_sqnr_db": Metric("dB", "median over the images of the same"),
        "cosine": Metric("", "cosine similarity, worst output"),
    }

    def prepare(self, image: Image.Image, spec: Preprocessing) -> Pixels:
        """The whole image in the upper left corner, grey beside it."""
        canvas = np.full((spec.height, spec.width, 3), 128, np.uint8)
        pixels = np.asarray(image.convert("RGB"))[: spec.height, : spec.width]
        canvas[: pixels.shape[0], : pixels.shape[1]] = pixels
        return canvas

    def find_images(
        self, data: str, split: str, model: Model, labels_file: str | None = None
    ) -> ImageSet:
        del split, model
        found = open_folder(Path(data))
        path = Path(labels_file) if labels_file else found.root / TRUTH
        try:
            known = json.loads(path.read_text())
        except FileNotFoundError:
            return found
        except ValueError as error:
            raise ImagesError(f"{path} is no JSON: write it again.") from error
        refs = (dataclasses.replace(r, truth=known.get(r.path.name)) for r in found.refs)
        return dataclasses.replace(found, refs=tuple(refs))

    def recognise(self, facts: FileFacts) -> tuple[int, bool]:
        if {tensor.name for tensor in facts.outputs} != {"points", "sizes"}:
            raise UnsupportedError(f"{facts.path} gives no corners: give a file that does.")
        return 0, False

    def columns(
        self,
        reference: Outputs,
        candidate: Outputs,
        truth: Sequence[Any],
        models: tuple[RunnableModel, RunnableModel],
    ) -> Columns:
        del models
        unknown = np.full((CORNERS, 2), np.nan)
        right = np.stack([unknown if t is None else np.array(t, float) for t in truth])
        mine, theirs = candidate["points"], reference["points"]
        return {
            **output_columns(reference, candidate),
            "error": np.abs(mine - right).mean(axis=(1, 2)),
            "error_reference": np.abs(theirs - right).mean(axis=(1, 2)),
            "moved": np.abs(mine - theirs).mean(axis=(1, 2)),
        }

    def summarise(
        self, rows: ImageRows, images: Sequence[DatasetImage], labels: tuple[str, ...]
    ) -> CornerDrift:
        del labels
        error, before = rows.columns["error"], rows.columns["error_reference"]
        known = ~np.isnan(error)
        outputs = output_figures(rows.columns)
        order = np.argsort(-rows.columns["moved"], kind="stable")[:3]
        worst = [(images[int(rows.index[at])], float(rows.columns["moved"][at])) for at in order]
        spread = float(np.std((error - before)[known])) if known.any() else 0.0
        return CornerDrift(
            images=len(rows),
            labelled=int(known.sum()),
            mae_px=float(error[known].mean()) if known.any() else None,
            mae_reference_px=float(before[known].mean()) if known.any() else None,
            standard_error_px=max(spread / math.sqrt(max(1, known.sum())), 1e-6),
            sqnr_db=outputs.sqnr_db,
            median_sqnr_db=outputs.median_sqnr_db,
            cosine=outputs.cosine,
            worst=tuple(CornerImage(i.name, i.path, moved) for i, moved in worst),
        )

    def figures(self, summary: CornerDrift) -> dict[str, float | None]:
        mine, theirs = summary.mae_px, summary.mae_reference_px
        return {
            "mae_px": mine,
            "mae_reference_px": theirs,
            "mae_increase_px": None if mine is None or theirs is None else mine - theirs,
            "sqnr_db": summary.sqnr_db,
            "median_sqnr_db": summary.median_sqnr_db,
            "cosine": summary.cosine,
        }

    def chance(self, summary: CornerDrift) -> float:
        return summary.standard_error_px

    def report(self, summary: CornerDrift, models: tuple[Model, Model]) -> TaskReport:
        del models
        figures = self.figures(summary)
        increase = figures["mae_increase_px"]
        comparisons: tuple[Comparison, ...] = ()
        if increase is not None:
            assert summary.mae_px is not None and summary.mae_reference_px is not None
            comparisons = (
                Comparison(
                    "corners",
                    "px",
                    Measured(summary.mae_reference_px),
                    Measured(summary.mae_px),
                    increase,
                    "px farther off",
                ),
            )
        return TaskReport(
            comparisons=comparisons,
            headline="" if increase is None else f"Corners are {increase:.4f} px farther off.",
            sentences=(f"Outputs: SQNR {summary.median_sqnr_db:.1f} dB.",),
            key_figures=((f"{summary.median_sqnr_db:.1f} dB", "SQNR, worst output"),),
            cards_note="Images whose corners moved most.",
            cards=tuple(
                ImageCard(image.name, image.path, (), f"{image.moved_px:.4f} px")
                for image in summary.worst
            ),
            missing="" if summary.labelled else self.truth_advice,
        )


CORNER_TASK = Corners()
