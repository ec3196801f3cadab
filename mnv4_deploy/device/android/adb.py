"""Android's debug bridge: the system's ``adb`` program and the devices that it sees."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mnv4_deploy.errors import (
    DeployError,
    InputError,
    OutputError,
    ToolchainError,
    UnsupportedError,
)

_LIST_TIMEOUT_S = 30.0
_LINE = re.compile(r"^(?P<serial>\(no serial number\)|\S+)\s+(?P<rest>\S.*)$")
# "usb:1-4.3", "product:panther", "model:Pixel_7", "transport_id:3" behind the state.
_DETAIL = re.compile(r"\s(usb|product|model|device|features|transport_id):(\S*)")
_UNUSABLE = {
    "offline": "is offline: reconnect its cable, or turn USB debugging off and on",
    "connecting": "is still connecting: try again in a moment",
    "authorizing": "is still connecting: try again in a moment",
    "unauthorized": "does not trust this computer: unlock it and accept the key that it shows",
    "no permissions": "may not be opened by this user: install Android's udev rules "
    "(android-sdk-platform-tools-common) and reconnect it",
}
# What adb says on standard error, to sentences about the device; the first that fits.
_LOST = (
    ("unauthorized", _UNUSABLE["unauthorized"]),
    ("offline", _UNUSABLE["offline"]),
    ("not found", "is gone: reconnect its cable and try again"),
    ("no devices", "is gone: reconnect its cable and try again"),
    ("cannot connect to daemon", "cannot be reached, because adb's server is gone: try again"),
)
_DISK_FULL = ("No space left on device", "Disk quota exceeded")


@dataclass(frozen=True)
class Attached:
    """A device as ``adb devices -l`` lists it; ``state`` is "device" for one that works."""

    serial: str
    state: str
    model: str = ""

    def __str__(self) -> str:
        what = ", ".join(filter(None, (self.model.replace("_", " "), self._trouble)))
        return f"{self.serial} ({what})" if what else self.serial

    @property
    def _trouble(self) -> str:
        return "" if self.state == "device" else self.state


@dataclass(frozen=True)
class Answer:
    """What the adb program gave back."""

    code: int
    stdout: bytes
    stderr: str

    @property
    def said(self) -> str:
        """Both streams: adb reports some errors on standard output."""
        return self.stdout.decode("utf-8", "replace") + self.stderr


def find_adb() -> str:
    """The adb program: on the PATH, else of an Android SDK; ToolchainError where none is."""
    places = [shutil.which("adb")]
    for variable in ("ANDROID_HOME", "ANDROID_SDK_ROOT"):
        if os.environ.get(variable):
            tools = Path(os.environ[variable]) / "platform-tools"
            places.append(shutil.which("adb", path=str(tools)))
    for place in places:
        if place:
            return place
    raise ToolchainError(
        "There is no adb here: install Android's platform tools, and put adb on the PATH or set "
        "ANDROID_HOME."
    )


def parse_devices(text: str) -> tuple[Attached, ...]:
    """What ``adb devices -l`` lists.

    The format is that of append_transport() in adb's transport.cpp: serial, spaces, state,
    details. A state may hold spaces: "no permissions (missing udev rules? ...); see [http...]".
    """
    _, _, listed = text.partition("List of devices attached")
    found = []
    for line in listed.splitlines():
        match = _LINE.match(line.expandtabs(1).strip())
        if not match or not match[0].isprintable():  # the device's own word, to be shown
            continue
        rest = " " + match["rest"]
        details = dict(_DETAIL.findall(rest))
        state = _DETAIL.split(rest, maxsplit=1)[0].strip()
        known = next((name for name in _UNUSABLE if state.startswith(name)), state)
        found.append(Attached(match["serial"], known, details.get("model", "")))
    return tuple(found)


def choose(attached: Sequence[Attached], wanted: str) -> Attached:
    """The device with serial ``wanted``, or the only one for "".

    Raises InputError, naming what is attached, where there is none to use, and UnsupportedError
    where there are several.
    """
    if wanted:
        fitting = [device for device in attached if device.serial == wanted]
    else:
        # A phone that only charges does not keep the one that works from being the only one.
        fitting = [device for device in attached if device.state == "device"] or list(attached)
    listed = ", ".join(map(str, attached))
    if not attached:
        raise InputError(
            "No Android device is attached: connect one with USB debugging transposed on."
        )
    if not fitting:
        raise InputError(f"No Android device has the serial {wanted!r}: attached are {listed}.")
    if len(fitting) > 1:
        raise UnsupportedError(
            f"Several Android devices are attached: name one of {listed} as "
            f"adb://{fitting[0].serial}."
        )
    device = fitting[0]
    if device.state != "device":
        trouble = _UNUSABLE.get(device.state, f"is in the state {device.state!r}: restart it")
        raise InputError(f"The Android device {device.serial} {trouble}.")
    return device


class Adb:
    """The adb program, talking to one device once ``serial`` is known."""

    def __init__(self, program: str, serial: str = "") -> None:
        self.program = program
        self.serial = serial

    def command(self, *arguments: str) -> list[str]:
        return [self.program, *(("-s", self.serial) if self.serial else ()), *arguments]

    def call(self, *arguments: str, timeout_s: float) -> Answer:
        """Run adb, without a terminal and with nothing to read.

        Raises ToolchainError where it cannot run or is not done in time.
        """
        try:
            done = subprocess.run(
                self.command(*arguments),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            name = f"The Android device {self.serial}" if self.serial else "adb's server"
            raise ToolchainError(
                f"{name} did not answer within {timeout_s:g} s: reconnect it and try again."
            ) from error
        except OSError as error:
            raise ToolchainError(
                f"{self.program} cannot run ({error.strerror}): reinstall Android's platform "
                "tools."
            ) from error
        return Answer(done.returncode, done.stdout, done.stderr.decode("utf-8", "replace"))

    def devices(self) -> tuple[Attached, ...]:
        """All that is attached; starts adb's server. ToolchainError where that cannot start."""
        answer = self.call("devices", "-l", timeout_s=_LIST_TIMEOUT_S)
        text = answer.stdout.decode("utf-8", "replace")
        if answer.code or "List of devices attached" not in text:
            raise ToolchainError(
                "adb's server cannot start"
                f"{_said(answer.stderr)}: run `adb start-server` to see why."
            )
        return parse_devices(text)

    def failure(self, stderr: str, what: str) -> DeployError:
        """The error for a call that did not end well: OutputError for a full disk there, else
        ToolchainError. ``what`` went on, such as "a file was copied"."""
        device = f"The Android device {self.serial}"
        if any(sign in stderr for sign in _DISK_FULL):
            return OutputError(f"{device} is full: remove files there and try again.")
        for sign, meaning in _LOST:
            if sign in stderr:
                return ToolchainError(f"{device} {meaning}.")
        return ToolchainError(
            f"The connection to the Android device {self.serial} was lost while {what}"
            f"{_said(stderr)}: reconnect it and try again."
        )


def _said(stderr: str) -> str:
    """The last line of what adb said, harmless and short, to put behind a sentence."""
    lines = [line for line in stderr.splitlines() if line.strip()]
    if not lines:
        return ""
    return f" ({''.join(c if c.isprintable() else ' ' for c in lines[-1].strip())[:200]})"
