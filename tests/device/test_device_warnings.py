"""What is said of clocks, heat and emulators, and what is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mnv4_deploy.device.warnings import device_warnings
from mnv4_deploy.profiles.records.device import DeviceFacts, DeviceState

FACTS = DeviceFacts("Board", "Linux", "aarch64", "Cortex-A72", {}, "0")
RASPBERRY_4 = replace(FACTS, title="Raspberry Pi 4 Model B Rev 1.4")
RASPBERRY_3 = replace(FACTS, title="Raspberry Pi 3 Model B Plus Rev 1.3")
STEADY = DeviceState({"policy0": "performance"}, {"policy0": (1800, 1800)}, {"cpu-thermal": 45.0})
SILENT = DeviceState()


def _hot(celsius: float, state: DeviceState = STEADY) -> DeviceState:
    return replace(state, temperatures_c={"cpu-thermal": celsius})


@pytest.mark.parametrize("state", [STEADY, SILENT])
def test_a_steady_or_silent_device_gets_no_warning(state: DeviceState) -> None:
    assert device_warnings(FACTS, state, state) == ()
    assert device_warnings(RASPBERRY_4, state, state) == ()


def test_a_governor_that_follows_the_load_and_how_to_set_it() -> None:
    state = replace(STEADY, governors={"policy0": "schedutil", "policy4": "performance"})
    (warning,) = device_warnings(FACTS, STEADY, state)
    assert "governor schedutil on policy0)" in warning
    assert "policy4" not in warning
    assert "echo performance | sudo tee /sys/devices/system/cpu/cpufreq" in warning
    (warning,) = device_warnings(FACTS, STEADY, state, "adb")
    assert "root" in warning
    assert "sudo" not in warning


def test_a_clock_held_down_is_not_one_that_rests() -> None:
    low = {"policy0": (600.0, 1800.0)}
    (warning,) = device_warnings(FACTS, STEADY, replace(STEADY, clocks_mhz=low))
    assert "policy0 at 600 of 1800 MHz" in warning
    # With another governor an idle clock is low, which says nothing about the runs.
    (warning,) = device_warnings(FACTS, STEADY, DeviceState({"policy0": "ondemand"}, low))
    assert "600" not in warning
    nearly = replace(STEADY, clocks_mhz={"policy0": (1750.0, 1800.0)})
    assert device_warnings(FACTS, STEADY, nearly) == ()


@pytest.mark.parametrize(
    ("facts", "celsius", "limit"),
    [
        (RASPBERRY_4, 79.0, ""),
        (RASPBERRY_4, 81.0, "from 80 C on"),
        (RASPBERRY_3, 59.0, ""),
        (RASPBERRY_3, 61.0, "from 60 C on"),
        (FACTS, 95.0, ""),  # nobody published a limit of this board
    ],
)
def test_limits_are_those_that_were_published(
    facts: DeviceFacts, celsius: float, limit: str
) -> None:
    found = device_warnings(facts, _hot(celsius - 1), _hot(celsius))
    assert bool(found) is bool(limit)
    assert all(limit in warning and f"{celsius:.0f} C" in warning for warning in found)


def test_a_rise_is_named_and_zones_are_not_mixed_up() -> None:
    (warning,) = device_warnings(FACTS, _hot(40), _hot(62))
    assert "cpu-thermal went from 40 to 62 C" in warning
    battery = replace(STEADY, temperatures_c={"battery": 20.0})
    assert device_warnings(FACTS, battery, _hot(62)) == ()


def test_the_system_s_own_word() -> None:
    held = replace(STEADY, throttled="the Arm clock is capped")
    (warning,) = device_warnings(FACTS, STEADY, held)
    assert "after the runs" in warning
    assert "the Arm clock is capped" in warning
    (warning,) = device_warnings(FACTS, held, STEADY)
    assert "before the runs" in warning


def test_an_emulator_comes_first() -> None:
    emulated = replace(FACTS, emulator="qemu-aarch64")
    first, second = device_warnings(emulated, STEADY, replace(STEADY, throttled="x"))
    assert "emulated by qemu-aarch64" in first
    assert "holds back (x)" in second


def test_what_a_device_says_is_cut_and_cleaned() -> None:
    word = "\x1b[2J" + "bad " * 200
    state = DeviceState({word: word}, {}, {word: 90.0}, word)
    for warning in device_warnings(replace(RASPBERRY_4, emulator=word), SILENT, state):
        assert "\x1b" not in warning
        assert len(warning) < 500
