"""The stages of ``profile``: ceilings, measurement, analysis, files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.outputs import check_free, staged, write_manifest
from mnv4_deploy.profiles.records.device import DeviceOptions
from mnv4_deploy.profiles.records.machine import Machine
from mnv4_deploy.profiles.records.profile import MeasureRequest, ModelProfile, Statistic
from mnv4_deploy.profiles.roofline.prediction import FilePrediction
from mnv4_deploy.progress import Progress

if TYPE_CHECKING:
    from mnv4_deploy.device.device import Device

PROFILE_JSON = "profile.json"


@dataclass(frozen=True)
class ProfileRequest:
    """``ceilings``: measure those of the machine where the cache has none, or do without.

    ``device`` is where the file runs, "" for this machine without an agent in between.
    """

    measure: MeasureRequest
    ceilings: bool = True
    statistic: Statistic = "min"
    out: Path | None = None
    overwrite: bool = False
    device: str = ""
    device_options: DeviceOptions = field(default_factory=DeviceOptions)


def profile(request: ProfileRequest, progress: Progress) -> ModelProfile:
    """Measure a model file and say what bounds it; with ``out`` also write every output there.

    Raises InputError for a file or option that cannot be used, ToolchainError for a runtime
    that fails; then nothing is written.
    """
    if request.out is not None:
        check_free(
            request.out,
            overwrite=request.overwrite,
            names=_WRITERS,
            manifest=PROFILE_JSON,
        )
    result = _profile_there(request, progress) if request.device else _profile(request, progress)
    if request.out is not None:
        with progress.stage("Write the report"):
            write_outputs(result, request.out, overwrite=request.overwrite)
    return result


def _profile(request: ProfileRequest, progress: Progress) -> ModelProfile:
    from mnv4_deploy.profiles.measure.checks import check_request
    from mnv4_deploy.profiles.measure.measure import measure
    from mnv4_deploy.profiles.roofline.analyse import analyse

    check_request(request.measure)
    machine = _machine(request.measure.threads, progress) if request.ceilings else None
    with progress.stage("Measure"):
        (measurement,) = measure((request.measure,))
    return analyse(measurement, machine, request.statistic)


def _profile_there(request: ProfileRequest, progress: Progress) -> ModelProfile:
    from mnv4_deploy.device.open import open_device
    from mnv4_deploy.profiles.graph.format import format_of

    format_of(request.measure.path)  # before a device is woken up for a file that is not there
    with progress.stage(f"Connect to {request.device}"):
        device = open_device(request.device, request.device_options, progress.note)
    with device:
        return profile_on(
            device,
            request.measure,
            progress,
            ceilings=request.ceilings,
            statistic=request.statistic,
        )


def profile_on(
    device: Device,
    request: MeasureRequest,
    progress: Progress,
    *,
    ceilings: bool = True,
    statistic: Statistic = "min",
) -> ModelProfile:
    """Measure a model file on an open device, under the roof of that device.

    Raises as :func:`profile` does, and as the methods of ``device`` do.
    """
    from mnv4_deploy.device.ceilings import device_machine
    from mnv4_deploy.device.measure import measure_on
    from mnv4_deploy.profiles.roofline.analyse import analyse

    machine = None
    if ceilings:
        with progress.stage(f"Measure what {device.facts.title} can do (once)"):
            machine = device_machine(
                device, request.threads, measure="if-missing", note=progress.note
            )
    with progress.stage(f"Measure on {device.facts.title}"):
        (measurement,) = measure_on(device, (request,))
    return analyse(measurement, machine, statistic)


def write_outputs(result: ModelProfile, out: Path, *, overwrite: bool) -> None:
    """Every file form of a profile in the folder ``out``, all of them or none."""
    from mnv4_deploy.reports.profile.profile_json import profile_to_dict

    with staged(out, overwrite=overwrite, manifest=PROFILE_JSON) as folder:
        for name, write in _WRITERS.items():
            write(result, folder / name)
        write_manifest(folder, profile_to_dict(result), name=PROFILE_JSON)


def predict_file(
    request: MeasureRequest,
    machine: str,
    progress: Progress,
    *,
    timed: bool = False,
    out: Path | None = None,
    overwrite: bool = False,
) -> tuple[FilePrediction, ModelProfile | None]:
    """What ``request``'s file would take on a published machine, and a profile with those times.

    The file runs here once, because only a runtime tells which operators it fuses. There is no
    profile where the machine gives no times. Raises UnsupportedError for a machine nobody
    published, or without times for ``out`` or where ``timed`` asks for them, and as
    :func:`profile` does.
    """
    from mnv4_deploy.profiles.machine.published import published
    from mnv4_deploy.profiles.measure.checks import check_request
    from mnv4_deploy.profiles.measure.measure import measure
    from mnv4_deploy.profiles.roofline.predicted import needs_times, predicted_profile
    from mnv4_deploy.profiles.roofline.prediction import predict_measured

    found = published(machine)
    if timed or out is not None:
        needs_times(found)
    if out is not None:
        check_free(out, overwrite=overwrite, names=_WRITERS, manifest=PROFILE_JSON)
    check_request(request)
    with progress.stage("See what runs"):
        (measurement,) = measure((replace(request, runs=1, warmup=0),))
    prediction = predict_measured(measurement, found)
    if found.macs_per_s is None:
        return prediction, None
    result = predicted_profile(measurement, found)
    if out is not None:
        with progress.stage("Write the report"):
            write_outputs(result, out, overwrite=overwrite)
    return prediction, result


def device_machine(
    device: str,
    options: DeviceOptions,
    threads: int | None,
    progress: Progress,
    *,
    measure_again: bool = False,
) -> Machine:
    """A device with its ceilings for ``threads`` (None: 1 thread).

    Raises UnsupportedError for a device that has none worth measuring.
    """
    from mnv4_deploy.device import ceilings
    from mnv4_deploy.device.open import open_device

    with progress.stage(f"Connect to {device}"):
        opened = open_device(device, options, progress.note)
    with opened, progress.stage(f"Measure what {opened.facts.title} can do"):
        found = ceilings.device_machine(
            opened,
            threads or 1,
            measure=True if measure_again else "if-missing",
            note=progress.note,
        )
    if found is None:
        raise UnsupportedError(f"The ceilings of {device} cannot be measured.")
    return found


def machine(threads: int | None, progress: Progress, *, measure_again: bool = False) -> Machine:
    """This machine with its ceilings for ``threads`` (None: those cached, or 1 thread)."""
    from mnv4_deploy.profiles.machine.cache import load_machine, machine_for
    from mnv4_deploy.profiles.measure.checks import check_threads

    cached = load_machine()
    if threads is None:
        wanted = [c.threads for c in cached.ceilings] if cached else [1]
    else:
        check_threads(threads)
        wanted = [threads]
    with progress.stage("Measure what this machine can do"):
        return machine_for(
            wanted, measure=True if measure_again else "if-missing", note=progress.note
        )


def _machine(threads: int, progress: Progress) -> Machine:
    from mnv4_deploy.profiles.machine.cache import machine_for, missing_ceilings

    if missing_ceilings(threads):
        with progress.stage("Measure what this machine can do (once)"):
            return machine_for(threads, note=progress.note)
    return machine_for(threads)


def _csv(result: ModelProfile, path: Path) -> None:
    from mnv4_deploy.reports.profile.csv_table import write_csv

    with path.open("w", encoding="utf-8", newline="") as stream:
        write_csv(result, stream)


def _plot(result: ModelProfile, path: Path) -> None:
    from mnv4_deploy.reports.plots.roofline_plot import save_roofline

    save_roofline(result, (path,))


def _html(result: ModelProfile, path: Path) -> None:
    from mnv4_deploy.reports.profile.html_report import write_report

    write_report(result, path)


def _model_explorer(result: ModelProfile, path: Path) -> None:
    from mnv4_deploy.reports.profile.model_explorer import node_data

    _write_json(node_data(result), path)


def _trace(result: ModelProfile, path: Path) -> None:
    from mnv4_deploy.reports.profile.chrome_trace import trace_events

    _write_json(trace_events(result), path)


def _write_json(content: object, path: Path) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


_WRITERS: Mapping[str, Callable[[ModelProfile, Path], None]] = {
    "layers.csv": _csv,
    "roofline.png": _plot,
    "roofline.svg": _plot,
    "report.html": _html,
    "model-explorer.json": _model_explorer,
    "trace.json": _trace,
}
