"""Ceilings of a device, measured there and kept here."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Literal

from mnv4_deploy.device.device import Device
from mnv4_deploy.errors import ToolchainError, UnsupportedError
from mnv4_deploy.profiles.machine.cache import checked, kept_or_measured, merged
from mnv4_deploy.profiles.records.device import DeviceFacts
from mnv4_deploy.profiles.records.machine import Machine

Say = Callable[[str], None]


def device_machine(
    device: Device,
    threads: int,
    *,
    measure: bool | Literal["if-missing"] = "if-missing",
    note: Say | None = None,
) -> Machine | None:
    """``device`` with ceilings for ``threads``, and for whatever else was measured before.

    ``measure`` True measures anew, "if-missing" only what the cache lacks, False nothing: the
    result is then None where the cache lacks it. It is None too, with a ``note`` why, for an
    emulator, whose times mean nothing, and where a device cannot be measured, unless ``measure``
    is True: then UnsupportedError is raised. Raises ToolchainError where the device is lost.
    """
    say = note or _say_nothing
    if device.facts.emulator:
        say(
            f"{device.facts.title} is emulated by {device.facts.emulator}: ceilings measured there"
            " would mean nothing."
        )
        return None

    def measured(wanted: Sequence[int]) -> Machine:
        return reduce(merged, [_measured_on(device, count) for count in wanted])

    try:
        return kept_or_measured(
            ceilings_key(device.facts), threads, measured, measure=measure, note=note
        )
    except UnsupportedError as error:
        if measure is True:
            raise
        say(str(error))
        return None


def ceilings_key(facts: DeviceFacts) -> str:
    """What the ceilings of a device are kept under: never that of this machine, or of another."""
    return json.dumps(["device", facts.fingerprint])


def _measured_on(device: Device, threads: int) -> Machine:
    machine = device.machine(threads)
    try:
        checked(machine)
        if machine.with_threads(threads) is None:
            raise ValueError(f"none of {threads} threads")
    except ValueError as error:
        raise ToolchainError(
            f"{device.facts.title} sent ceilings that cannot be ({error}): measure again."
        ) from error
    return machine


def _say_nothing(_text: str) -> None:
    pass
