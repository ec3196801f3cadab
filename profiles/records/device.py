"""Frozen records of a device: how it is reached, what it is, and how it was doing.

No heavy imports: a device can load this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Scheme = Literal["local", "ssh", "adb"]


@dataclass(frozen=True)
class DeviceAddress:
    """Where a device is. ``text`` is what the user gave.

    ``target`` is "[user@]host" for ssh, the serial for adb ("" for the only one attached), ""
    for this machine. ``port`` None is whatever OpenSSH's configuration says.
    """

    scheme: Scheme
    target: str
    text: str
    port: int | None = None


@dataclass(frozen=True)
class DeviceOptions:
    """What the user may say about a device; "" leaves it to the device.

    ``setup``: make a private virtual environment with the runtimes there. ``python``: the
    interpreter to run the agent with. ``folder``: where the files of a run go, which are removed
    at its end. ``benchmark_model``: LiteRT's tool for Android, a file here or a path there.
    """

    setup: bool = False
    python: str = ""
    folder: str = ""
    benchmark_model: str = ""


@dataclass(frozen=True)
class DeviceFacts:
    """What a device is.

    ``runtimes``: installed versions by distribution ("ai-edge-litert", "tflite-runtime",
    "onnxruntime"; "benchmark_model" on Android). ``emulator`` names the program that emulates
    the processor, whose times mean nothing ("" for real hardware). ``fingerprint`` is the same
    as long as processor and runtimes are: measured ceilings are kept under it. ``isa`` are the
    instruction sets as :class:`mnv4_deploy.profiles.machine.cpu.Cpu` names them.
    """

    title: str
    system: str
    architecture: str
    cpu: str
    runtimes: Mapping[str, str]
    fingerprint: str
    python: str = ""
    memory_bytes: int = 0
    free_bytes: int = 0
    emulator: str = ""
    isa: tuple[str, ...] = ()


@dataclass(frozen=True)
class DeviceState:
    """Clocks and heat at one moment; empty for what the system does not tell.

    ``governors`` and ``clocks_mhz`` (now, and the highest allowed) by CPU cluster (cpufreq
    policy), ``temperatures_c`` by thermal zone. ``throttled`` is the system's own word that it
    holds its clocks down.
    """

    governors: Mapping[str, str] = field(default_factory=dict)
    clocks_mhz: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    temperatures_c: Mapping[str, float] = field(default_factory=dict)
    throttled: str = ""


@dataclass(frozen=True)
class DeviceRun:
    """The device behind a measurement, and its state before and after. ``warnings`` are
    sentences about what makes the times doubtful: throttling, a governor, an emulator."""

    address: DeviceAddress
    facts: DeviceFacts
    before: DeviceState
    after: DeviceState
    warnings: tuple[str, ...] = ()
