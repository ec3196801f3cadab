"""Runs the search for every format of an export and leaves the chosen int8 files in place."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from mnv4_deploy.budget.build import Builder
from mnv4_deploy.budget.search import run_search
from mnv4_deploy.budget.trials import FileTrialRunner, HeldOut
from mnv4_deploy.exporters.job import FileJob
from mnv4_deploy.exporters.records import BudgetSearch, Deviation, Drift, Int8Choice, SearchResult
from mnv4_deploy.profiles.records.graph import Format
from mnv4_deploy.progress import Progress


def search_all(
    job: FileJob,
    modules: Mapping[Format, nn.Module],
    choice: Int8Choice,
    held: HeldOut,
    drifts: tuple[Drift, ...],
    progress: Progress,
) -> SearchResult:
    """Start from the int8 files that are there, made as ``choice`` says; replace them by better.

    ``modules`` are the rewritten float32 models, ``drifts`` the files' in the order of formats.
    """
    assert job.request.max_drop is not None
    searches: list[BudgetSearch] = []
    final: list[Drift] = []
    proofs: list[Deviation] = []
    for (format_, module), drift in zip(modules.items(), drifts, strict=True):
        path = job.path(format_, "int8")
        builder = Builder(job, format_, module)
        with progress.stage(f"Time int8, {format_}"):
            trial_runner = FileTrialRunner(builder, path, held, progress)
        search = run_search(
            trial_runner.first_trial(choice, drift),
            job.request.max_drop,
            trial_runner,
            job.request.task,
            confident=job.request.confident,
        )
        chosen = search.chosen.choice
        if trial_runner.files[chosen] != path:
            trial_runner.files[chosen].replace(path)
        searches.append(search)
        final.append(trial_runner.drifts[chosen])
        proofs += builder.deviations
    return SearchResult(tuple(searches), tuple(final), tuple(proofs))
