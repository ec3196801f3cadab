"""What a network is for: how its outputs become answers, and answers become figures.

A task knows no file, no runtime and no command. Export, budget, drift, limits and reports ask it
for what depends on the task, and treat all tasks alike. To add one, write a subclass of
:class:`Task` in a folder of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy.typing as npt

from mnv4_deploy.images.records import DatasetImage, Pixels
from mnv4_deploy.tasks.rows import Columns, ImageRows

if TYPE_CHECKING:
    from PIL import Image

    from mnv4_deploy.images.sets import ImageSet
    from mnv4_deploy.models.records import OutputSpec, Preprocessing
    from mnv4_deploy.profiles.records.files import FileFacts
    from mnv4_deploy.tasks.report import TaskReport

_Z = NormalDist().inv_cdf(0.975)

# Arrays by the outputs' names, one row an image, as real numbers.
Outputs = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Metric:
    """A figure that a task knows: its unit ("" for plain numbers), its meaning, what it needs.

    ``truth``: images with a known answer; ``layers``: the comparison of layers.
    """

    unit: str
    meaning: str
    truth: bool = False
    layers: bool = False


@dataclass(frozen=True)
class BriefColumn:
    """A column of the table that an export prints: a metric, and the float32 file's own."""

    title: str
    metric: str
    reference_metric: str = ""


class Model(Protocol):
    """What a task may know of a network: a PyTorch model or a file."""

    @property
    def name(self) -> str: ...
    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, empty where they are unknown."""

    @property
    def num_classes(self) -> int:
        """0 where there are none."""


@dataclass(frozen=True)
class ClassNames:
    """Names of a network's classes, () where they are unknown, and what told them.

    ``source`` is where the network has them from, "labels file" or "evaluation folder".
    ``labels_file`` is the given one if it labels images, else None.
    """

    labels: tuple[str, ...]
    source: str
    labels_file: str | None = None


class RunnableModel(Model, Protocol):
    """A network whose outputs are compared."""

    @property
    def probabilities(self) -> bool:
        """Whether its outputs come out of a softmax."""


class Summary(Protocol):
    """What came of all images: a frozen record of the task's own.

    Records inside it may have a ``path``, which no JSON gets to see.
    """

    @property
    def images(self) -> int: ...
    @property
    def labelled(self) -> int:
        """How many of them have a known answer."""


class Task(ABC):
    """Instances have no state: they travel to other processes by the name of their class.

    ``outputs`` are those of a network of this task unless it has its own. ``budget`` is the
    metric that ``--max-drop`` limits (how much worse the candidate may be, in its unit, at most
    ``largest_drop``), ``accuracy`` the candidate's own figure that plots show. ``brief`` are the
    columns of an export's table. Besides its own, every task has the metrics ``sqnr_db``,
    ``median_sqnr_db`` and ``cosine`` of the outputs (``rows.output_figures``).
    ``truth_advice`` tells how images get known answers.
    """

    name: ClassVar[str]
    outputs: ClassVar[tuple[OutputSpec, ...]]
    metrics: ClassVar[Mapping[str, Metric]]
    budget: ClassVar[str]
    largest_drop: ClassVar[float]
    accuracy: ClassVar[str]
    brief: ClassVar[tuple[BriefColumn, ...]]
    truth_advice: ClassVar[str]

    def prepare(self, image: Image.Image, spec: Preprocessing) -> Pixels:
        """``[height, width, 3]`` uint8 RGB as the network sees it, before normalisation."""
        from mnv4_deploy.images.preprocessing import to_uint8

        return to_uint8(image, spec)

    @abstractmethod
    def find_images(
        self, data: str, split: str, model: Model, labels_file: str | None = None
    ) -> ImageSet:
        """The images of ``data``, "bundled" or a folder, with the known answer of each.

        ``split`` is which of the bundled ones, "calibration" or "evaluation". Raises ImagesError
        for a folder that is none, and for answers that the network cannot give.
        """

    def name_classes(
        self, model: Model, source: str, data: str, labels_file: str | None
    ) -> ClassNames:
        """The classes of ``model``, whose own names are from ``source`` ("" or "assumed": not its
        own), as ``labels_file`` or the images of ``data`` tell them.

        Raises InputError for a file that cannot be read or is neither names nor labels.
        """
        del data
        return ClassNames(model.labels, source, labels_file)

    @abstractmethod
    def recognise(self, facts: FileFacts) -> tuple[int, bool]:
        """Number of classes (0: unknown or none) and ``probabilities`` of a model file.

        Raises UnsupportedError for a file whose outputs are not this task's.
        """

    def check_shapes(self, name: str, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """Number of classes (0: none) of the file ``name``, whose outputs for an image these are.

        Raises UnsupportedError where they are not this task's.
        """
        del name, shapes
        return 0

    def differences(self, reference: Model, candidate: Model) -> list[tuple[str, str, str]]:
        """Why their outputs cannot be compared: what, the reference's and the candidate's.

        Raises InputError where a sentence of its own tells better.
        """
        del reference, candidate
        return []

    @abstractmethod
    def columns(
        self,
        reference: Outputs,
        candidate: Outputs,
        truth: Sequence[Any],
        models: tuple[RunnableModel, RunnableModel],
    ) -> Columns:
        """What is kept of the images, one row each. ``truth`` has None for unknown answers.

        Must hold those of :func:`mnv4_deploy.tasks.rows.output_columns`.
        """

    @abstractmethod
    def summarise(
        self, rows: ImageRows, images: Sequence[DatasetImage], labels: tuple[str, ...]
    ) -> Summary:
        """Over all ``rows``, whose ``index`` is into ``images``. At least one row."""

    @abstractmethod
    def figures(self, summary: Any) -> Mapping[str, float | None]:
        """The value of every metric in ``metrics``, in its unit; None where it is not known."""

    def undecidable(self, metric: str, model: Model) -> str:
        """Why ``metric`` has no value for such a model, and what to do; "" where it has one."""
        del metric, model
        return ""

    def doubts(self, summary: Any) -> Mapping[str, str]:
        """Why the values of some metrics decide nothing, by their names."""
        del summary
        return {}

    @abstractmethod
    def chance(self, summary: Any) -> float:
        """One standard error of the ``budget`` metric, in its unit; above 0."""

    def interval(self, summary: Any) -> tuple[float, float] | None:
        """95 % interval of the ``budget`` metric, in its unit; None where it has no value.

        That of a normal distribution, unless the task knows better.
        """
        value = self.figures(summary)[self.budget]
        if value is None:
            return None
        half = _Z * self.chance(summary)
        return value - half, value + half

    @abstractmethod
    def report(self, summary: Any, models: tuple[Model, Model]) -> TaskReport:
        """What people are to read of it."""
