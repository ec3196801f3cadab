"""Clocks and heat of a Linux device, as its kernel tells them.

cpufreq: Documentation/admin-guide/pm/cpufreq.rst (kHz). Thermal zones:
Documentation/driver-api/thermal/sysfs-api.rst (millidegrees). Raspberry Pi's throttling word:
``vcgencmd get_throttled`` in the Raspberry Pi documentation.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from mnv4_deploy.profiles.records.device import DeviceState

_SYSFS = Path("/sys")
_RASPBERRY_WORD = "devices/platform/soc/soc:firmware/get_throttled"
# Bits of the word that speak of now; those 16 higher speak of any time since the start.
_RASPBERRY_NOW = {
    0: "its supply voltage is too low",
    1: "the Arm clock is capped",
    2: "it is throttled",
    3: "the soft temperature limit is active",
}
_KHZ_PER_MHZ = 1000.0
_MILLIDEGREES = 1000.0
# Sensors that are not connected report values like these.
_COLDEST_C, _HOTTEST_C = -60.0, 200.0


def _ask_firmware() -> str:
    """The word from Raspberry Pi's own program, such as "throttled=0x50000"."""
    program = shutil.which("vcgencmd")
    if program is None:
        return ""
    try:
        done = subprocess.run(
            [program, "get_throttled"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip().rpartition("=")[2]


def read_state(sysfs: Path = _SYSFS, firmware: Callable[[], str] = _ask_firmware) -> DeviceState:
    """What ``sysfs`` tells now; empty for what it does not."""
    governors: dict[str, str] = {}
    clocks: dict[str, tuple[float, float]] = {}
    for policy in sorted(sysfs.glob("devices/system/cpu/cpufreq/policy*")):
        governor = _read(policy / "scaling_governor")
        now, highest = (_mhz(policy / f"scaling_{name}_freq") for name in ("cur", "max"))
        if governor:
            governors[policy.name] = governor
        if now is not None and highest is not None:
            clocks[policy.name] = (now, highest)
    return DeviceState(
        governors=governors,
        clocks_mhz=clocks,
        temperatures_c=_temperatures_c(sysfs),
        throttled=_throttled(_read(sysfs / _RASPBERRY_WORD) or firmware()),
    )


def _temperatures_c(sysfs: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    for zone in sorted(sysfs.glob("class/thermal/thermal_zone*")):
        value = _integer(zone / "temp")
        if value is None or not _COLDEST_C < value / _MILLIDEGREES < _HOTTEST_C:
            continue
        name = _read(zone / "type") or zone.name
        # Boards have several zones of one type.
        found[name if name not in found else f"{name} {zone.name}"] = value / _MILLIDEGREES
    return found


def _throttled(word: str) -> str:
    """The Raspberry Pi's word in plain ones; "" where it does not hold its clocks down."""
    try:
        bits = int(word.removeprefix("0x"), 16)
    except ValueError:
        return ""
    return ", ".join(text for bit, text in _RASPBERRY_NOW.items() if bits >> bit & 1)


def _mhz(path: Path) -> float | None:
    khz = _integer(path)
    return None if khz is None else khz / _KHZ_PER_MHZ


def _integer(path: Path) -> int | None:
    try:
        return int(_read(path))
    except ValueError:
        return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:  # a file that is not there, and sensors that are asleep
        return ""
