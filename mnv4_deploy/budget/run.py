"""Climbs the ladder of every format of an export and leaves the chosen int8 files in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from mnv4_deploy.budget.build import Builder
from mnv4_deploy.budget.search import climb
from mnv4_deploy.budget.trials import FileWorkshop
from mnv4_deploy.exporters.job import FileJob
from mnv4_deploy.exporters.records import Climbed, Deviation, Drift, Format, Int8Choice, Ladder
from mnv4_deploy.progress import Progress
from mnv4_deploy.sessions.image_runner import Outputs, Pixels


@dataclass(frozen=True)
class Held:
    """The held-out images and what the float32 file of each format makes of them."""

    labels: tuple[int | None, ...]
    shown: Pixels
    fp32: Mapping[Format, Outputs]


def climb_all(
    job: FileJob,
    modules: Mapping[Format, nn.Module],
    choice: Int8Choice,
    held: Held,
    drifts: tuple[Drift, ...],
    progress: Progress,
) -> Climbed:
    """Start from the int8 files that are there, made as ``choice`` says; replace them by better.

    ``modules`` are the rewritten float32 models, ``drifts`` the files' in the order of formats.
    """
    assert job.request.max_drop is not None
    ladders: list[Ladder] = []
    final: list[Drift] = []
    proofs: list[Deviation] = []
    for (format_, module), drift in zip(modules.items(), drifts, strict=True):
        path = job.path(format_, "int8")
        builder = Builder(job, format_, module)
        with progress.stage(f"Time int8, {format_}"):
            workshop = FileWorkshop(
                builder, path, held.labels, held.shown, held.fp32[format_], progress
            )
        ladder = climb(workshop.first_rung(choice, drift), job.request.max_drop, workshop)
        chosen = ladder.chosen.choice
        if workshop.files[chosen] != path:
            workshop.files[chosen].replace(path)
        ladders.append(ladder)
        final.append(workshop.drifts[chosen])
        proofs += builder.deviations
    return Climbed(tuple(ladders), tuple(final), tuple(proofs))
