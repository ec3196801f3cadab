"""What makes times taken on a device doubtful, in sentences that say what to do."""

from __future__ import annotations

from collections.abc import Iterator

from mnv4_deploy.profiles.records.device import DeviceFacts, DeviceState, Scheme
from mnv4_deploy.text import clean, shorten

_STEADY_GOVERNOR = "performance"
_TEXT_CHARACTERS = 80
# Firmware rounds clocks, and boost clocks come and go: less than this is no sign of anything.
_HELD_DOWN = 0.95
_RISE_C = 15.0
# Where its firmware starts to lower the clock: Raspberry Pi documentation, "Frequency management
# and thermal control". The 3 B+ (and A+, its smaller sister) has a soft limit of its own.
_RASPBERRY_C = 80.0
_RASPBERRY_SOFT_C = 60.0
_RASPBERRY_SOFT = ("3 model b plus", "3 model a plus")
_SET_GOVERNOR = (
    "echo performance | sudo tee /sys/devices/system/cpu/cpufreq/policy*/scaling_governor"
)


def device_warnings(
    facts: DeviceFacts, before: DeviceState, after: DeviceState, scheme: Scheme = "ssh"
) -> tuple[str, ...]:
    """The warnings about times taken between ``before`` and ``after``, the gravest first.

    Speaks only of what the system told, and of limits that the maker of the board published.
    """
    return (
        *_emulator(facts),
        *_throttled(before, after),
        *_clocks(after),
        *_heat(facts, before, after),
        *_governors(after, scheme),
    )


def _emulator(facts: DeviceFacts) -> Iterator[str]:
    if facts.emulator:
        yield (
            f"The processor is emulated by {_text(facts.emulator)}: these times say nothing about"
            " a real one, only the results do."
        )


def _throttled(before: DeviceState, after: DeviceState) -> Iterator[str]:
    if after.throttled:
        yield (
            f"The device says after the runs that it holds back ({_text(after.throttled)}): cool"
            " or power it better, and measure again."
        )
    elif before.throttled:
        yield (
            f"The device said before the runs that it held back ({_text(before.throttled)}):"
            " measure again now that it does not."
        )


def _clocks(after: DeviceState) -> Iterator[str]:
    """Clusters below their highest clock where no governor lowers it for lack of work."""
    slow = [
        f"{_text(name)} at {now:.0f} of {highest:.0f} MHz"
        for name, (now, highest) in after.clocks_mhz.items()
        if now < _HELD_DOWN * highest
        and after.governors.get(name, _STEADY_GOVERNOR) == _STEADY_GOVERNOR
    ]
    if slow:
        yield (
            f"After the runs the clock was below the highest allowed ({', '.join(slow)}): heat or"
            " power may have held it down."
        )


def _heat(facts: DeviceFacts, before: DeviceState, after: DeviceState) -> Iterator[str]:
    if not after.temperatures_c:
        return
    limit_c = _published_limit_c(facts.title)
    hottest = max(after.temperatures_c, key=lambda zone: after.temperatures_c[zone])
    if limit_c is not None and after.temperatures_c[hottest] >= limit_c:
        yield (
            f"{_text(hottest)} is at {after.temperatures_c[hottest]:.0f} C after the runs; from"
            f" {limit_c:.0f} C on a Raspberry Pi lowers its clock: let it cool, or cool it better."
        )
    rises = {
        zone: now - before.temperatures_c[zone]
        for zone, now in after.temperatures_c.items()
        if zone in before.temperatures_c
    }
    zone = max(rises, key=lambda name: rises[name], default="")
    if zone and rises[zone] >= _RISE_C:
        yield (
            f"{_text(zone)} went from {before.temperatures_c[zone]:.0f} to"
            f" {after.temperatures_c[zone]:.0f} C during the runs: steady use may be slower than"
            " these times."
        )


def _published_limit_c(title: str) -> float | None:
    name = title.lower()
    if "raspberry pi" not in name:
        return None
    soft = any(model in name for model in _RASPBERRY_SOFT)
    return _RASPBERRY_SOFT_C if soft else _RASPBERRY_C


def _governors(after: DeviceState, scheme: Scheme) -> Iterator[str]:
    found = {
        f"{_text(governor)} on {_text(name)}"
        for name, governor in after.governors.items()
        if governor != _STEADY_GOVERNOR
    }
    if found:
        how = ", which takes root." if scheme == "adb" else f": {_SET_GOVERNOR}"
        yield (
            f"The clock follows the load (governor {', '.join(sorted(found))}). For times that"
            f" repeat, set {_STEADY_GOVERNOR} there{how}"
        )


def _text(untrusted: str) -> str:
    return shorten(clean(untrusted), _TEXT_CHARACTERS)
