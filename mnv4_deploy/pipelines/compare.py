"""The stages of ``compare`` of two files here: sessions, analysis, more sessions, files."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.outputs import check_free
from mnv4_deploy.profiles.measure.sessions import SESSIONS, Pair, measure_more, measure_pair
from mnv4_deploy.profiles.records.profile import MeasureRequest
from mnv4_deploy.profiles.roofline.comparison import STATISTIC, Comparison, compare_profiles
from mnv4_deploy.profiles.roofline.verdict import outcome_of
from mnv4_deploy.progress import Progress

# Of each file. The 10th percentile of a session needs hundreds; a device gets warm.
RUNS, RUNS_ON_DEVICE = 2000, 400
# Of the time limit of one part: eight sessions, sixteen, thirty-two.
PARTS = 4
REPORT = "comparison.html"


@dataclass(frozen=True)
class CompareRequest:
    """``fail_if_slower`` is the most that B may take, in times of A's time. Where the first part,
    of ``a.max_seconds``, does not tell, the sessions are doubled as long as all together take no
    more than ``max_total_seconds`` (None: four parts)."""

    a: MeasureRequest
    b: MeasureRequest
    fail_if_slower: float | None = None
    max_total_seconds: float | None = None
    out: Path | None = None
    overwrite: bool = False


def compare(request: CompareRequest, progress: Progress) -> Comparison:
    """Measure two files in turns and join them by module; with ``out`` also write every output.

    Raises InputError for a file or option that cannot be used, ToolchainError for a runtime that
    fails; then nothing is written.
    """
    from mnv4_deploy.profiles.measure.checks import check_requests

    check_requests((request.a, request.b))
    looks = _looks(request)
    if request.out is not None:
        from mnv4_deploy.reports.comparison.write import COMPARISON_JSON, NAMES
        from mnv4_deploy.reports.page import environment

        environment()  # before minutes of measuring for a page that cannot be written
        check_free(request.out, overwrite=request.overwrite, names=NAMES, manifest=COMPARISON_JSON)
    result = _compare(request, looks, progress)
    if request.out is not None:
        from mnv4_deploy.reports.comparison.write import write_outputs

        with progress.stage("Write the comparison"):
            write_outputs(result, request.fail_if_slower, request.out, overwrite=request.overwrite)
    return result


def _compare(request: CompareRequest, looks: int, progress: Progress) -> Comparison:
    started = time.perf_counter()
    with progress.stage("Measure both in turns"):
        pair = measure_pair(request.a, request.b)
    result = _analysed(pair, looks)
    limit = request.fail_if_slower
    for part in range(1, looks):
        if limit is None or outcome_of(result.ratio, limit) != "inconclusive":
            break
        # A part of slow files takes longer than its limit.
        elapsed_s = time.perf_counter() - started
        if elapsed_s > _total_seconds(request):
            break
        with progress.stage(f"Measure more, {SESSIONS * 2**part} sessions in all"):
            pair = measure_more(pair, request.a, request.b, len(pair.sessions))
        result = _analysed(pair, looks)
    return result


def _analysed(pair: Pair, looks: int) -> Comparison:
    from mnv4_deploy.profiles.roofline.analyse import analyse

    a, b = (analyse(measured, None, STATISTIC) for measured in (pair.a, pair.b))
    return compare_profiles(a, b, pair.sessions, looks=looks)


def _looks(request: CompareRequest) -> int:
    """How often the sessions can double, and once more. Raises UnsupportedError."""
    limit, total, part = request.fail_if_slower, _total_seconds(request), request.a.max_seconds
    if limit is not None and not 0 < limit < math.inf:
        raise UnsupportedError(
            f"--fail-if-slower {limit:g} makes no sense: give a ratio such as 1.05."
        )
    if not part <= total < math.inf:
        raise UnsupportedError(
            f"--max-total-seconds {total:g} is less than one part takes: give at least the"
            f" --max-seconds, {part:g}."
        )
    if limit is None:
        return 1
    return 1 + math.floor(math.log2(total / part))


def _total_seconds(request: CompareRequest) -> float:
    if request.max_total_seconds is None:
        return PARTS * request.a.max_seconds
    return request.max_total_seconds
