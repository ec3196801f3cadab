"""The device behind a profile in words. All that it says of itself is untrusted text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mnv4_deploy.profiles.records.device import DeviceRun, DeviceState
from mnv4_deploy.text import clean, shorten

_CHARACTERS = 90
Fact = tuple[str, str]


def device_title(run: DeviceRun) -> str:
    """Board, system and processor, such as "Raspberry Pi 4 Model B, Debian 12, Cortex-A72"."""
    facts = run.facts
    parts = [_text(part) for part in (facts.title, facts.system, facts.cpu)]
    return ", ".join(dict.fromkeys(filter(None, parts)))


def device_facts(run: DeviceRun) -> list[Fact]:
    """What the device is, and how it was doing before and after; what it does not tell is left
    out."""
    facts = run.facts
    runtimes = ", ".join(f"{name} {version}" for name, version in facts.runtimes.items())
    found = [
        ("Device", _text(facts.title)),
        ("Reached by", _text(run.address.text)),
        ("System", _text(facts.system)),
        ("Processor", _text(f"{facts.cpu} ({facts.architecture})")),
        ("Runtimes", _text(runtimes)),
        ("Python", _text(facts.python)),
        ("Memory", f"{facts.memory_bytes:,} bytes" if facts.memory_bytes else ""),
        ("Emulated by", _text(facts.emulator)),
        *_change("Governor", run.before.governors, run.after.governors),
        *_change("Clock", _clocks(run.before), _clocks(run.after)),
        *_change("Temperature", _temperatures(run.before), _temperatures(run.after)),
        *_change("Throttled", _throttled(run.before), _throttled(run.after)),
    ]
    return [(title, text) for title, text in found if text]


def _clocks(state: DeviceState) -> dict[str, str]:
    return {
        name: f"{now:.0f} of {highest:.0f} MHz"
        for name, (now, highest) in state.clocks_mhz.items()
    }


def _temperatures(state: DeviceState) -> dict[str, str]:
    return {name: f"{celsius:.1f} C" for name, celsius in state.temperatures_c.items()}


def _throttled(state: DeviceState) -> dict[str, str]:
    return {"system": state.throttled} if state.throttled else {}


def _change(what: str, before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Fact]:
    """One fact for each part of the device: its value, or the two that it had."""
    for name in dict.fromkeys([*before, *after]):
        values = list(dict.fromkeys(_text(side.get(name, "–")) for side in (before, after)))
        yield f"{what}, {_text(name)}", " before, ".join(values) + " after" * (len(values) > 1)


def _text(untrusted: str) -> str:
    return shorten(clean(untrusted), _CHARACTERS)
