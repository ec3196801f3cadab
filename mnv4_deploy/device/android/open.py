"""The Android device behind an address."""

from __future__ import annotations

import os
from collections.abc import Callable

from mnv4_deploy.device.android.adb import Adb, choose, find_adb
from mnv4_deploy.device.android.adb_shell import AdbShell
from mnv4_deploy.device.android.device import AndroidDevice
from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.profiles.records.device import DeviceAddress, DeviceOptions

# What adb itself knows as the place where its shell may keep and run programs.
_ROOT = "/data/local/tmp"


def open_adb(
    address: DeviceAddress, options: DeviceOptions, note: Callable[[str], None]
) -> AndroidDevice:
    """The Android device ``address``, with a folder of this run's own on it.

    Without a serial it is the one that $ANDROID_SERIAL names, as for adb, else the only one
    attached. ``note`` is told what the user should know: what takes long, and a folder that
    could not be removed.

    Raises InputError where no such device is ready, UnsupportedError where several are and none
    is named and for a benchmark_model that the device cannot run, OutputError where its disk is
    full, ToolchainError where adb is missing or fails.
    """
    # Not refused: a comparison of devices gives the same options to boards with Python.
    for given, option in ((options.setup, "--setup"), (options.python, "--device-python")):
        if given:
            note(f"{option} means nothing to {address.text}: Android has no Python.")
    root = options.folder or _ROOT
    if not root.startswith("/") or not root.isprintable():
        raise UnsupportedError(
            f"{root!r} is no folder of an Android device: give a path that starts with a slash."
        )
    adb = Adb(find_adb())
    adb.serial = choose(
        adb.devices(), address.target or os.environ.get("ANDROID_SERIAL", "")
    ).serial
    shell = AdbShell(adb, root)
    try:
        return AndroidDevice(address, shell, options.benchmark_model, note)
    except BaseException:
        shell.close()
        raise
