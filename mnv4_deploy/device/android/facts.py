"""What an Android device is and how it is doing, each from one script of its own shell.

Values come from Android's properties, from /proc and from /sys as the kernel documents them, and
from ``dumpsys thermalservice``; what the shell's user may not read is left out.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from mnv4_deploy.device.android.shell import AndroidShell
from mnv4_deploy.errors import ToolchainError
from mnv4_deploy.profiles.agent.state import read_state
from mnv4_deploy.profiles.files.own import scratch_folder
from mnv4_deploy.profiles.machine.cpu import read_linux
from mnv4_deploy.profiles.records.device import DeviceFacts, DeviceState

_TIMEOUT_S = 30.0
_MAX_FILES = 4096
# Platform names of Android's ABIs (developer.android.com/ndk/guides/abis).
ARCHITECTURES = {
    "arm64-v8a": "aarch64",
    "armeabi-v7a": "armv7l",
    "x86_64": "x86_64",
    "x86": "i686",
    "riscv64": "riscv64",
}
# PowerManager.THERMAL_STATUS_* (frameworks/base/core/java/android/os/PowerManager.java).
_THERMAL = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
_EMULATED_HARDWARE = {
    "goldfish": "the Android emulator",
    "ranchu": "the Android emulator",
    "cutf_cvm": "Cuttlefish",
}

# The first line of each file, read by the shell itself: a process for each would take seconds.
_FILES = """
for file in $files; do
  line=
  read -r line 2>/dev/null < "$file"
  [ -n "$line" ] && echo "$file=$line"
done
"""
_FACTS = (
    """
echo '@@@ properties'; getprop
echo '@@@ cpuinfo'; cat /proc/cpuinfo
echo '@@@ meminfo'; cat /proc/meminfo
echo '@@@ disk'; df -k "$1" || df "$1"
echo '@@@ tool'; [ -z "$2" ] || sha256sum "$2"
echo '@@@ files'
cpus=/sys/devices/system/cpu/cpu[0-9]*
files="$cpus/topology/core_id $cpus/topology/physical_package_id"
for name in level type size shared_cpu_list; do files="$files $cpus/cache/index*/$name"; done
"""
    + _FILES
)
# Clocks come first: they should be those of what ran just before.
_STATE = (
    """
echo '@@@ files'
policies=/sys/devices/system/cpu/cpufreq/policy*
zones=/sys/class/thermal/thermal_zone*
files=
for name in cur_freq max_freq governor; do files="$files $policies/scaling_$name"; done
files="$files $zones/type $zones/temp"
"""
    + _FILES
    + """
echo '@@@ thermal'; dumpsys thermalservice
"""
)
_SECTION = re.compile(r"^@@@ (\w+)\n", re.MULTILINE)
_PROPERTY = re.compile(r"^\[([^\]]+)\]: \[(.*)\]$", re.MULTILINE)
_FILE = re.compile(r"^(?:.*/)?sys/((?:(?!\.\.)[\w.:-]+/)*[\w-]+)=(.*)$")
_STATUS = re.compile(r"^Thermal Status: (\d)$", re.MULTILINE)


def read_facts(shell: AndroidShell, tool: str = "") -> DeviceFacts:
    """The device behind ``shell``; ``tool`` is the path of its benchmark_model, "" for none.

    Raises ToolchainError where it says nothing about itself.
    """
    done = shell.run(["sh", "-c", _FACTS, "facts", shell.folder, tool], _TIMEOUT_S)
    return parse_facts(done.stdout)


def read_android_state(shell: AndroidShell) -> DeviceState:
    """Clocks and heat now."""
    return parse_state(shell.run(["sh", "-c", _STATE, "state"], _TIMEOUT_S).stdout)


def parse_facts(text: str) -> DeviceFacts:
    """What the script for facts wrote; ToolchainError where that is not from an Android shell."""
    sections = _sections(text)
    properties: dict[str, str] = dict(_PROPERTY.findall(sections.get("properties", "")))
    abi = properties.get("ro.product.cpu.abi", "")
    if not abi:
        raise ToolchainError(
            "The device answers over adb but tells no Android properties: is it still starting?"
        )
    with scratch_folder() as folder:
        _write_files(sections.get("files", ""), folder)
        cpuinfo = folder / "cpuinfo"
        cpuinfo.write_text(sections.get("cpuinfo", ""), encoding="utf-8")
        processor = read_linux(cpuinfo, folder / "devices/system/cpu")
    tool = sections.get("tool", "").split()
    runtimes = {"benchmark_model": f"sha256 {tool[0][:12]}"} if tool else {}
    cpu = _processor_name(properties, sections.get("cpuinfo", ""))
    title = _title(properties)
    identity = (title, cpu, abi, processor, sorted(runtimes.items()))
    release, level = (properties.get(f"ro.build.version.{n}", "?") for n in ("release", "sdk"))
    return DeviceFacts(
        title=title,
        system=f"Android {release} (API level {level})",
        architecture=ARCHITECTURES.get(abi, abi),
        cpu=cpu,
        runtimes=runtimes,
        fingerprint=hashlib.sha256(repr(identity).encode()).hexdigest()[:16],
        memory_bytes=_memory_bytes(sections.get("meminfo", "")),
        free_bytes=parse_free_bytes(sections.get("disk", "")),
        emulator=_emulator(properties),
        isa=processor.isa,
    )


def parse_abis(text: str) -> tuple[str, ...]:
    """All ABIs that the device runs programs of, its own first, from what ``getprop`` writes."""
    properties = dict(_PROPERTY.findall(text))
    listed = properties.get("ro.product.cpu.abilist") or properties.get("ro.product.cpu.abi", "")
    return tuple(filter(None, listed.split(",")))


def parse_state(text: str) -> DeviceState:
    """What the script for states wrote.

    "Thermal Status: n" is ThermalManagerService's own dump (Android 10 and later).
    """
    sections = _sections(text)
    with scratch_folder() as folder:
        _write_files(sections.get("files", ""), folder)
        state = read_state(folder, firmware=str)
    status = _STATUS.search(sections.get("thermal", ""))
    level = int(status[1]) if status else 0
    if not 0 < level < len(_THERMAL):
        return state
    return replace(state, throttled=f"Android's thermal status is {level}, {_THERMAL[level]}")


def parse_free_bytes(text: str) -> int:
    """Of toybox's ``df -k``: the column "Available"; 0 where it is not to be found."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if len(lines) < 2 or "Available" not in lines[0]:
        return 0
    # A name of several words in front moves the columns: count from the end of the row.
    position = lines[0].index("Available") - len([w for w in lines[0] if w != "on"])
    try:
        return int(lines[-1][position]) << 10
    except (IndexError, ValueError):
        return 0


def _sections(text: str) -> Mapping[str, str]:
    parts = _SECTION.split(text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _write_files(text: str, folder: Path) -> None:
    """The files of the device's /sys below ``folder``, for the code that reads a Linux board's.

    Names are the device's word: none may lead out of the folder.
    """
    for name, content in list(_named(text))[:_MAX_FILES]:
        path = folder / name
        with contextlib.suppress(OSError):  # a name too long, or a file as a folder
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")


def _named(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        match = _FILE.match(line)
        if match:
            yield match[1], match[2]


def _title(properties: Mapping[str, str]) -> str:
    maker = properties.get("ro.product.manufacturer", "")
    model = properties.get("ro.product.model", "Android device")
    return model if model.lower().startswith(maker.lower()) else f"{maker} {model}"


def _processor_name(properties: Mapping[str, str], cpuinfo: str) -> str:
    """The chip as its maker names it (from Android 12 on), as the kernel does, or as the board."""
    chip = properties.get("ro.soc.model", "")
    if chip:
        return f"{properties.get('ro.soc.manufacturer', '')} {chip}".strip()
    named = re.search(r"^(?:Hardware|model name)\s*: (.+)$", cpuinfo, re.MULTILINE)
    if named:
        return named[1].strip()
    return properties.get("ro.board.platform") or properties.get("ro.hardware") or "unknown"


def _emulator(properties: Mapping[str, str]) -> str:
    if "1" in (properties.get("ro.kernel.qemu"), properties.get("ro.boot.qemu")):
        return "the Android emulator"
    return _EMULATED_HARDWARE.get(properties.get("ro.hardware", ""), "")


def _memory_bytes(meminfo: str) -> int:
    total = re.search(r"^MemTotal:\s+(\d+) kB$", meminfo, re.MULTILINE)
    return int(total[1]) << 10 if total else 0
