"""The stages of ``compare --device``: the same files on several devices, one after the other."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.outputs import check_free, staged, write_manifest
from mnv4_deploy.profiles.records.device import DeviceOptions
from mnv4_deploy.profiles.records.profile import MeasureRequest, ModelProfile, Statistic
from mnv4_deploy.profiles.roofline.ranking import RankedModule, rank_modules
from mnv4_deploy.progress import Progress

COMPARISON_JSON = "comparison.json"
SCHEMA_VERSION = 2
_ROUNDING = 1e-3
_CSV, _PLOTS = "comparison.csv", ("pareto.png", "pareto.svg")


@dataclass(frozen=True)
class DevicesRequest:
    """``accuracy_percent`` is by path, where the user says what no manifest does."""

    files: tuple[MeasureRequest, ...]
    devices: tuple[str, ...]
    options: DeviceOptions = field(default_factory=DeviceOptions)
    ceilings: bool = True
    statistic: Statistic = "min"
    accuracy_percent: Mapping[str, float] = field(default_factory=dict)
    out: Path | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class FileAccuracy:
    """How well a file does and where that is from: "given", or the manifest beside the file.

    ``title`` is what its task calls it in the manifest, "" where it was given. ``interval`` is
    Wilson's of 95 %, None where it is no share of a known number of images.
    """

    value: float
    unit: str
    title: str
    source: str
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class DeviceProfiles:
    """One device: the files it was asked to run, in order; ``errors`` say by path what failed."""

    device: str
    title: str
    profiles: Mapping[str, ModelProfile]
    errors: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DevicesComparison:
    """``modules`` rank the layers of each file over the devices that gave times of operators.

    The places of a ``RankedModule`` are those devices, named in ``ranked_on`` by path.
    """

    files: tuple[str, ...]
    devices: tuple[DeviceProfiles, ...]
    accuracy: Mapping[str, FileAccuracy]
    modules: Mapping[str, tuple[RankedModule, ...]]
    ranked_on: Mapping[str, tuple[str, ...]]


def compare_devices(request: DevicesRequest, progress: Progress) -> DevicesComparison:
    """Profile every file on every device; with ``request.out`` also write table and plot there.

    Devices have their turns one after the other, and a device is left before the next one is
    asked. Raises as ``profile`` does for what concerns all files; a file that only some devices
    can run is an entry in their ``errors``, unless none can.
    """
    _check(request)
    accuracy = {
        file.path: found for file in request.files if (found := _accuracy(request, file.path))
    }
    devices = tuple(_on_device(device, request, progress) for device in request.devices)
    for file in request.files:
        reasons = [d.errors[file.path] for d in devices if file.path in d.errors]
        if len(reasons) == len(devices):
            raise UnsupportedError(f"No device can run {file.path}: {reasons[0]}")
    result = _ranked(request, devices, accuracy)
    if request.out is not None:
        with progress.stage("Write the comparison"):
            _write(result, request.out, progress, overwrite=request.overwrite)
    return result


def _check(request: DevicesRequest) -> None:
    if not request.files or not request.devices:
        raise ValueError("nothing to compare")
    paths = [file.path for file in request.files]
    for what, given in (("file", paths), ("device", list(request.devices))):
        twice = next((name for name in given if given.count(name) > 1), None)
        if twice is not None:
            raise UnsupportedError(f"The {what} {twice} is given twice: name each {what} once.")
    for path, value in request.accuracy_percent.items():
        if path not in paths:
            raise UnsupportedError(f"--accuracy is for {path}, which is not among the files.")
        if not 0 <= value <= 100:
            raise UnsupportedError(f"--accuracy {value:g} is no percentage: give 0 to 100.")
    from mnv4_deploy.profiles.graph.format import format_of

    for path in paths:
        format_of(path)  # before a device is woken up for a file that is not there
    if request.out is not None:
        check_free(
            request.out,
            overwrite=request.overwrite,
            names=(_CSV, *_PLOTS),
            manifest=COMPARISON_JSON,
        )


def _accuracy(request: DevicesRequest, path: str) -> FileAccuracy | None:
    """Given by the user, else measured by the export whose manifest lists this very file."""
    if path in request.accuracy_percent:
        return FileAccuracy(request.accuracy_percent[path], "%", "", "given")
    from mnv4_deploy.drift.declared import manifest_of
    from mnv4_deploy.profiles.files.hashes import sha256_of

    file = Path(path)
    entry, manifest, _ = manifest_of(file, sha256_of(file))
    task, rows = manifest.get("task"), manifest.get("drift")
    if not isinstance(task, dict):
        return None
    drifts = [row for row in (rows if isinstance(rows, list) else ()) if isinstance(row, dict)]
    key, mine = "accuracy", [row for row in drifts if row.get("subject") == file.name]
    if entry.get("precision") == "float32":
        key, mine = "accuracy_reference", drifts
    measured = mine[0].get("figures") if mine else None
    found = measured.get(task.get(key)) if isinstance(measured, dict) else None
    if not isinstance(found, int | float) or not math.isfinite(found):
        return None
    return FileAccuracy(
        float(found),
        str(task.get("unit", "")),
        str(task.get("title", "")),
        f"measured by the export on {mine[0].get('images')} images",
        _interval(float(found), str(task.get("unit", "")), mine[0].get("images")),
    )


def _interval(value: float, unit: str, images: object) -> tuple[float, float] | None:
    if unit != "%" or not isinstance(images, int) or not 0 <= value <= 100 or images < 1:
        return None
    right = value * images / 100
    if abs(right - round(right)) > _ROUNDING:
        return None  # not so many images of these: a mean of something else
    from mnv4_deploy.tasks.classification.statistics import proportion

    share = proportion(round(right), images)
    return share.low_percent, share.high_percent


def _on_device(device: str, request: DevicesRequest, progress: Progress) -> DeviceProfiles:
    from mnv4_deploy.device.open import open_device
    from mnv4_deploy.errors import ModelFileError
    from mnv4_deploy.pipelines.profile import profile_on

    profiles: dict[str, ModelProfile] = {}
    errors: dict[str, str] = {}
    with progress.stage(f"Connect to {device}"):
        opened = open_device(device, request.options, progress.note)
    with opened:
        for file in request.files:
            try:
                profiles[file.path] = profile_on(
                    opened,
                    file,
                    progress,
                    ceilings=request.ceilings,
                    statistic=request.statistic,
                )
            except (UnsupportedError, ModelFileError) as error:
                errors[file.path] = str(error)
                progress.note(f"{device}: {error}")
        return DeviceProfiles(device, opened.facts.title, profiles, errors)


def _ranked(
    request: DevicesRequest,
    devices: tuple[DeviceProfiles, ...],
    accuracy: Mapping[str, FileAccuracy],
) -> DevicesComparison:
    modules, ranked_on = {}, {}
    for file in request.files:
        able = [d for d in devices if file.path in d.profiles and d.profiles[file.path].layers]
        modules[file.path] = rank_modules([d.profiles[file.path] for d in able]) if able else ()
        ranked_on[file.path] = tuple(d.device for d in able)
    return DevicesComparison(
        tuple(file.path for file in request.files), devices, accuracy, modules, ranked_on
    )


def pareto_names(result: DevicesComparison) -> Mapping[str, str]:
    """A short name for each file, by path: the file's, with its folder where two share that."""
    names = [Path(path).name for path in result.files]
    return {
        path: name if names.count(name) == 1 else f"{Path(path).parent.name}/{name}"
        for path, name in zip(result.files, names, strict=True)
    }


def _write(result: DevicesComparison, out: Path, progress: Progress, *, overwrite: bool) -> None:
    with staged(out, overwrite=overwrite, manifest=COMPARISON_JSON) as folder:
        _write_csv(result, folder / _CSV)
        units = {found.unit for found in result.accuracy.values()}
        titles = {found.title for found in result.accuracy.values()} - {""}
        if len(units) > 1 or len(titles) > 1:
            kinds = ", ".join(sorted(titles) or sorted(units))
            progress.note(f"No Pareto plot: these accuracies do not compare ({kinds}).")
        elif units:
            _write_plot(result, folder, titles.pop() if titles else "Accuracy", units.pop())
        write_manifest(folder, to_dict(result), name=COMPARISON_JSON, indent=1)


def _write_plot(result: DevicesComparison, folder: Path, label: str, unit: str) -> None:
    from mnv4_deploy.reports.plots.pareto_plot import ParetoPanel, save_pareto
    from mnv4_deploy.text import STATISTIC_TITLES

    names = pareto_names(result)
    titles = [device.title for device in result.devices]
    panels = [
        ParetoPanel(
            device.title
            if titles.count(device.title) == 1
            else f"{device.title}, {device.device}",
            {names[path]: p.trust.wall_us / 1e3 for path, p in device.profiles.items()},
            {names[path]: _spread_ms(p) for path, p in device.profiles.items()},
        )
        for device in result.devices
    ]
    accuracy = {names[path]: found.value for path, found in result.accuracy.items()}
    save_pareto(
        panels,
        accuracy,
        [folder / name for name in _PLOTS],
        label=label,
        unit=unit,
        statistic=STATISTIC_TITLES[_statistic(result)],
        intervals={
            names[path]: found.interval
            for path, found in result.accuracy.items()
            if found.interval
        },
    )


def _statistic(result: DevicesComparison) -> Statistic:
    return next(p.statistic for device in result.devices for p in device.profiles.values())


def _spread_ms(profile: ModelProfile) -> tuple[float, float]:
    wall = profile.wall_spread
    return wall.p10 / 1e3, wall.p90 / 1e3


def _write_csv(result: DevicesComparison, path: Path) -> None:
    from mnv4_deploy.text import cell_text

    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(_COLUMNS)
        for row in figures(result):
            cells = (row[key] for key in _COLUMNS)
            writer.writerow(cell_text(cell) if isinstance(cell, str) else cell for cell in cells)


_COLUMNS = (
    *("device", "title", "file", "runtime", "threads", "latency_us", "median_us", "runs"),
    *("macs", "bytes", "gmacs_per_s", "compute_share_percent", "memory_share_percent"),
    *("overhead_share_percent", "accuracy", "accuracy_unit", "warnings", "error"),
)
Figure = str | float | int | None


def figures(result: DevicesComparison) -> list[dict[str, Figure]]:
    """One row for each device and file; None for what is not known.

    The shares are of the layers' time, by what bounds them (the rest has no known bound).
    """
    return [
        _figures(device, path, result.accuracy.get(path))
        for path in result.files
        for device in result.devices
    ]


def _figures(
    device: DeviceProfiles, path: str, accuracy: FileAccuracy | None
) -> dict[str, Figure]:
    row: dict[str, Figure] = dict.fromkeys(_COLUMNS)
    row |= {"device": device.device, "title": device.title, "file": path}
    if accuracy:
        row |= {"accuracy": accuracy.value, "accuracy_unit": accuracy.unit}
    profile = device.profiles.get(path)
    if profile is None:
        return row | {"error": device.errors.get(path, "")}
    wall_us, cost = profile.trust.wall_us, profile.total_cost
    run = profile.measurement.device
    return row | {
        "runtime": profile.measurement.runtime,
        "threads": profile.measurement.threads,
        "latency_us": wall_us,
        "median_us": profile.wall_spread.p50,
        "runs": profile.trust.runs,
        "macs": cost.macs,
        "bytes": cost.bytes,
        "gmacs_per_s": cost.macs / wall_us / 1e3 if wall_us else None,
        **{f"{k}_share_percent": v for k, v in bound_shares(profile).items()},
        "warnings": " ".join(run.warnings) if run else "",
    }


def bound_shares(profile: ModelProfile) -> dict[str, float | None]:
    """Percent of the layers' time in layers bound by compute, memory and overhead."""
    total_us = sum(layer.latency_us for layer in profile.layers)
    if not profile.bounded or not total_us:
        return dict.fromkeys(("compute", "memory", "overhead"))
    return {
        limit: 100
        / total_us
        * math.fsum(
            layer.latency_us
            for layer in profile.layers
            if layer.bound and layer.bound.limit == limit
        )
        for limit in ("compute", "memory", "overhead")
    }


def to_dict(result: DevicesComparison) -> dict[str, Any]:
    """Everything, for ``--json``; whole profiles under ``profiles`` by device and path."""
    from mnv4_deploy.reports.profile.profile_json import profile_to_dict

    return {
        "schema_version": SCHEMA_VERSION,
        "figures": figures(result),
        "accuracy": {path: asdict(found) for path, found in result.accuracy.items()},
        "modules": {
            path: {
                "devices": result.ranked_on[path],
                "modules": [asdict(module) for module in modules],
            }
            for path, modules in result.modules.items()
        },
        "profiles": {
            device.device: {path: profile_to_dict(p) for path, p in device.profiles.items()}
            for device in result.devices
        },
    }
