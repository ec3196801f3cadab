"""Measures model files on a device: times from there, graphs and joins from here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from mnv4_deploy.device.device import Device
from mnv4_deploy.device.warnings import device_warnings
from mnv4_deploy.errors import DeployError, ToolchainError
from mnv4_deploy.profiles.files.own import scratch_folder
from mnv4_deploy.profiles.graph.format import format_of
from mnv4_deploy.profiles.graph.onnx.renamed import renamed_copy
from mnv4_deploy.profiles.isolated import DEFAULT_TIMEOUT_S, run_isolated
from mnv4_deploy.profiles.measure.checks import check_rounds
from mnv4_deploy.profiles.measure.join import join_here
from mnv4_deploy.profiles.records.device import DeviceRun
from mnv4_deploy.profiles.records.profile import Measurement, MeasureRequest, TimedFile


def measure_on(device: Device, requests: Sequence[MeasureRequest]) -> tuple[Measurement, ...]:
    """:func:`mnv4_deploy.profiles.measure.measure.measure` with the runs on ``device``.

    Which CPUs there are, and how many threads they bear, is the device's to know; the rest of a
    request is checked before anything is sent. Each measurement says where it ran, how the
    device was doing before and after, and what that makes doubtful.

    Raises UnsupportedError for requests that cannot be met, ModelFileError for what is no model
    there or here, ToolchainError for a runtime that is missing or fails and for a connection
    that is lost, OutputError for a full disk.
    """
    check_rounds(requests)
    with scratch_folder() as folder:
        files = [
            _named(request.path, folder / str(index)) for index, request in enumerate(requests)
        ]
        with _under_own_names(requests, files):
            before = device.state()
            timed = device.time(
                [
                    replace(request, path=str(file))
                    for request, file in zip(requests, files, strict=True)
                ]
            )
            after = device.state()
            measured = _joined(requests, timed, files, device.facts.architecture)
    run = DeviceRun(
        address=device.address,
        facts=device.facts,
        before=before,
        after=after,
        warnings=device_warnings(device.facts, before, after, device.address.scheme),
    )
    return tuple(replace(measurement, device=run) for measurement in measured)


def _named(path: str, folder: Path) -> Path:
    """``path``, or a copy in ``folder`` in which every node has a name; in a child process, for
    nobody has looked at the file before."""
    if format_of(path) == "tflite":
        return Path(path)
    return run_isolated(renamed_copy, path, str(folder), subject=path)


@contextmanager
def _under_own_names(requests: Sequence[MeasureRequest], files: Sequence[Path]) -> Iterator[None]:
    """Errors name the files that the user gave, not their copies."""
    try:
        yield
    except DeployError as error:
        text = str(error)
        for request, file in zip(requests, files, strict=True):
            text = text.replace(str(file), request.path)
        raise type(error)(text) from error


def _joined(
    requests: Sequence[MeasureRequest],
    timed: Sequence[TimedFile],
    files: Sequence[Path],
    architecture: str,
) -> tuple[Measurement, ...]:
    """The join in a child process: it runs the files, and one may crash the runtime here."""
    if len(timed) != len(requests):
        raise ToolchainError(
            f"The device sent times of {len(timed)} files instead of {len(requests)}: is it"
            " running another version of mnv4-deploy?"
        )
    return run_isolated(
        join_here,
        tuple(requests),
        tuple(timed),
        tuple(files),
        architecture,
        timeout_s=DEFAULT_TIMEOUT_S * len(requests),
        subject=" or ".join(request.path for request in requests),
    )
