"""Machines and devices: what they are, what they can do, and whether they compute the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from mnv4_deploy.api.arguments import (
    AnyPath,
    Inputs,
    Shapes,
    device_options,
    fitted,
    given_inputs,
    record,
)

if TYPE_CHECKING:
    from mnv4_deploy.parity.records import ParityResult
    from mnv4_deploy.pipelines.caches import Cache
    from mnv4_deploy.pipelines.device import DeviceReport
    from mnv4_deploy.profiles.records.machine import Machine, PublishedMachine


def measure_machine(
    threads: int | None = None,
    *,
    measure: bool = False,
    device: str = "",
    setup: bool = False,
    device_python: str = "",
    device_folder: AnyPath = "",
    benchmark_model: AnyPath = "",
) -> Machine:
    """What this machine or ``device`` can do at most: the command ``machine``.

    ``threads`` None are those that were measured before, or 1. ``measure``: again, even what is
    known. Raises InputError or ToolchainError.
    """
    from mnv4_deploy.pipelines import profile as pipeline
    from mnv4_deploy.progress import Progress

    wanted = fitted("threads", threads, int | None)
    again = fitted("measure", measure, bool)
    options = device_options(setup, device_python, device_folder, benchmark_model)
    there = fitted("device", device, str)
    progress = Progress(show=False)
    if there:
        return pipeline.device_machine(there, options, wanted, progress, measure_again=again)
    return pipeline.machine(wanted, progress, measure_again=again)


def list_machines() -> tuple[PublishedMachine, ...]:
    """The published machines that :func:`predict` predicts for, as ``machine`` lists them."""
    from mnv4_deploy.profiles.machine.published import published_machines

    return published_machines()


def inspect_device(
    where: str,
    *,
    setup: bool = False,
    device_python: str = "",
    device_folder: AnyPath = "",
    benchmark_model: AnyPath = "",
) -> DeviceReport:
    """What the device ``where`` is and how it is doing: the command ``device``.

    Raises InputError or ToolchainError.
    """
    from mnv4_deploy.pipelines.device import inspect_device as pipeline
    from mnv4_deploy.progress import Progress

    options = device_options(setup, device_python, device_folder, benchmark_model)
    return pipeline(fitted("where", where, str), options, Progress(show=False))


def remove_device_setup(
    where: str, *, device_python: str = "", device_folder: AnyPath = ""
) -> bool:
    """Remove from a device what ``setup`` made: the command ``device --remove-setup``.

    Whether there was anything. Raises InputError or ToolchainError.
    """
    from mnv4_deploy.pipelines.device import remove_setup
    from mnv4_deploy.progress import Progress

    options = device_options(False, device_python, device_folder, "")
    return remove_setup(fitted("where", where, str), options, Progress(show=False))


def check_parity(
    path: AnyPath,
    *device: str,
    data: AnyPath = "bundled",
    images: int = 16,
    seed: int = 0,
    shapes: Shapes | None = None,
    inputs: Inputs | None = None,
    tolerance: Literal["exact", "reordered", "approximated", "float16"] = "reordered",
    setup: bool = False,
    device_python: str = "",
    device_folder: AnyPath = "",
    benchmark_model: AnyPath = "",
    out: AnyPath | None = None,
    overwrite: bool = False,
) -> ParityResult:
    """Whether devices compute what this machine does, and if not, since which layer: ``parity``.

    With ``out`` the result is written there. ``parity.records.ParityRequest`` says what the
    others mean. Outputs that differ are no error: see ``failed`` of the result.

    Raises InputError or ToolchainError; then nothing appears in ``out``.
    """
    from mnv4_deploy.parity.records import ParityRequest
    from mnv4_deploy.pipelines.parity import parity
    from mnv4_deploy.progress import Progress

    request = record(
        ParityRequest,
        path=path,
        devices=device,
        options=device_options(setup, device_python, device_folder, benchmark_model),
        data=data,
        images=images,
        seed=seed,
        shapes=shapes or {},
        inputs=given_inputs(inputs),
        tolerance=tolerance,
        out=out,
        overwrite=overwrite,
    )
    return parity(request, Progress(show=False))


def list_caches() -> tuple[Cache, ...]:
    """What is kept on this machine between commands, with sizes: the command ``cache``."""
    from mnv4_deploy.pipelines import caches

    return caches.list_caches()


def clear_cache(clear: str) -> Cache:
    """Remove what we wrote of the cache of that name: the command ``cache --clear``.

    What was there. Raises InputError for a name that does not exist or is shared with other
    programs, and where something cannot be removed.
    """
    from mnv4_deploy.pipelines import caches

    return caches.clear_cache(fitted("clear", clear, str))
