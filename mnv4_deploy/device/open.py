"""The device behind an address."""

from __future__ import annotations

from collections.abc import Callable

from mnv4_deploy.device.address import parse_address
from mnv4_deploy.device.device import Device
from mnv4_deploy.profiles.records.device import DeviceOptions


def _ignore(text: str) -> None:
    del text


def open_device(
    text: str,
    options: DeviceOptions | None = None,
    note: Callable[[str], None] = _ignore,
) -> Device:
    """The device that ``text`` names, ready; close it, or use it as a context manager.

    ``note`` is told what takes long (setup). Raises UnsupportedError for what is no address or
    a device that cannot be used, InputError where it cannot be reached, OutputError where it has
    no room, ToolchainError where a program here or there fails.
    """
    address = parse_address(text)
    options = options or DeviceOptions()
    if address.scheme == "adb":
        from mnv4_deploy.device.android.open import open_adb

        return open_adb(address, options, note)
    from mnv4_deploy.device.linux.device import open_agent

    return open_agent(address, options, note)
