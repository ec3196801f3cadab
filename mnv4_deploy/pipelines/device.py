"""The stages of ``device``: connect, and ask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.profiles.records.device import DeviceFacts, DeviceOptions, DeviceState
from mnv4_deploy.progress import Progress

if TYPE_CHECKING:
    from mnv4_deploy.device.device import Device


@dataclass(frozen=True)
class DeviceReport:
    """``device`` is the address that was given; ``state`` is that of one moment."""

    device: str
    facts: DeviceFacts
    state: DeviceState


def inspect_device(where: str, options: DeviceOptions, progress: Progress) -> DeviceReport:
    """What the device at ``where`` is and how it is doing. Raises as ``open_device`` does."""
    with _opened(where, options, progress) as device:
        return DeviceReport(where, device.facts, device.state())


def remove_setup(where: str, options: DeviceOptions, progress: Progress) -> bool:
    """Take away the environment that ``setup`` made there; whether there was one.

    Raises UnsupportedError for a device on which none is made, and as ``open_device`` does.
    """
    from mnv4_deploy.device.linux.device import AgentDevice

    with _opened(where, options, progress) as device:
        if not isinstance(device, AgentDevice):
            raise UnsupportedError("--setup makes nothing on Android: there is nothing to remove.")
        return device.remove_setup()


def _opened(where: str, options: DeviceOptions, progress: Progress) -> Device:
    from mnv4_deploy.device.open import open_device

    with progress.stage(f"Connect to {where}"):
        return open_device(where, options, progress.note)
