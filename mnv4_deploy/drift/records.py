"""Frozen records of ``drift``: what is compared, what came of each image, of each layer, and why.

No torch and no runtime: these travel to worker processes and to other machines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mnv4_deploy.images.records import DatasetImage, SkippedImage
from mnv4_deploy.layers.records import LayersDrift
from mnv4_deploy.models.source import ModelSource
from mnv4_deploy.profiles.records.device import DeviceFacts, DeviceOptions
from mnv4_deploy.sessions.records import ModelRef
from mnv4_deploy.tasks.classification.task import CLASSIFICATION
from mnv4_deploy.tasks.rows import ImageRows
from mnv4_deploy.tasks.task import Task


@dataclass(frozen=True)
class ShardJob:
    """What a worker process needs to know once; the same for every shard of a run."""

    task: Task
    reference: ModelRef
    candidate: ModelRef


@dataclass(frozen=True)
class Shard:
    """A consecutive piece of the data set. ``start`` is the index of its first image."""

    index: int
    start: int
    images: tuple[DatasetImage, ...]


@dataclass(frozen=True)
class ShardResult:
    """One shard done."""

    index: int
    rows: ImageRows
    skipped: tuple[SkippedImage, ...]


@dataclass(frozen=True)
class DriftRequest:
    """What ``drift`` is asked for. ``reference`` and ``candidate`` are files or
    PyTorch models: names, or where else networks come from.

    ``preprocessing`` overrides what files say: see ``images/options.py``. With
    ``allow_preprocessing`` the two may differ in it. ``images`` None: all. ``layer_images`` 0: no
    layers. ``workers`` None: one a CPU. ``cluster`` is a Dask scheduler's address, "" for this
    machine. ``fail_if`` are conditions as ``drift.limits`` parses them. ``device`` is the address
    of a device that runs the files, "" for none.
    """

    reference: str | ModelSource
    candidate: str | ModelSource
    task: Task = CLASSIFICATION
    data: str = "bundled"
    labels_file: str | None = None
    weights: str = "bundled"
    images: int | None = None
    layer_images: int = 32
    workers: int | None = None
    cluster: str = ""
    fail_if: tuple[str, ...] = ()
    preprocessing: Mapping[str, str] = field(default_factory=dict)
    allow_preprocessing: bool = False
    out: Path | None = None
    overwrite: bool = False
    device: str = ""
    device_options: DeviceOptions = field(default_factory=DeviceOptions)


@dataclass(frozen=True)
class DeviceAgreement:
    """A file on the device against the same file here, on the images of the layer comparison.

    ``differing`` of ``elements`` output values are not equal bit for bit: by ``max_error`` at
    most, which is ``max_codes`` quantization steps (None for floats). ``first_layer`` is the
    first that gives something else than here on the same inputs, "" where there is none or none
    can be named; ``explanation`` says why in plain words, as far as that is known.
    """

    role: Literal["reference", "candidate"]
    runtime: str
    images: int
    elements: int
    differing: int
    max_error: float
    max_codes: int | None
    sqnr_db: float
    first_layer: str = ""
    explanation: str = ""


@dataclass(frozen=True)
class Limit:
    """A ``--fail-if`` condition and whether it holds: then the run fails with exit code 1.

    It also fails where ``doubt`` says why the value decides nothing.
    """

    text: str
    metric: str
    value: float
    exceeded: bool
    doubt: str = ""

    @property
    def state(self) -> Literal["kept", "exceeded", "inconclusive"]:
        if self.doubt:
            return "inconclusive"
        return "exceeded" if self.exceeded else "kept"


@dataclass(frozen=True)
class DriftResult:
    """Everything ``drift`` found; ``output`` is the task's summary
    (``tasks.task.Summary``). ``images_per_second`` counts those run now, not resumed ones.

    ``device`` is what ran the files, None for this machine or a cluster, with the runtimes
    ``device_runtimes``; ``parity`` is of each file there against here, and empty without layers.
    Layers are always compared on this machine.
    """

    task: Task
    reference: ModelRef
    candidate: ModelRef
    data: str
    output: Any
    layers: LayersDrift | None
    skipped: tuple[SkippedImage, ...]
    limits: tuple[Limit, ...]
    seconds: float
    images_per_second: float
    resumed_images: int
    workers: int
    notes: tuple[str, ...] = ()
    device: DeviceFacts | None = None
    device_runtimes: tuple[str, ...] = ()
    parity: tuple[DeviceAgreement, ...] = ()

    @property
    def rate(self) -> float | None:
        """Images per second; None on an emulated processor, whose speed means nothing."""
        emulated = self.device is not None and self.device.emulator
        return None if emulated else self.images_per_second

    @property
    def failed(self) -> bool:
        return any(limit.state != "kept" for limit in self.limits)
