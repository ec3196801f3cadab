"""What a device is: board, system, processor, runtimes, and whether it is emulated."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

from mnv4_deploy.profiles.machine.cpu import fingerprint, read_cpu
from mnv4_deploy.profiles.records.device import DeviceFacts

RUNTIMES = ("ai-edge-litert", "tflite-runtime", "onnxruntime")
_ROOT = Path("/")
# Makers leave these in place of a name.
_PLACEHOLDERS = ("", "None", "Default string", "To Be Filled By O.E.M.", "System Product Name")
_EMULATOR = "qemu-"


def read_facts(folder: Path) -> DeviceFacts:
    """This device, seen by this interpreter; ``folder`` is on the disk that files go to."""
    cpu = read_cpu()
    runtimes = installed()
    return DeviceFacts(
        title=read_title(),
        system=system_name(),
        architecture=platform.machine(),
        cpu=cpu.model,
        runtimes=runtimes,
        fingerprint=hashlib.sha256(
            repr((fingerprint(cpu), sorted(runtimes.items()))).encode()
        ).hexdigest()[:16],
        python=platform.python_version(),
        memory_bytes=_memory_bytes(),
        free_bytes=free_bytes(folder),
        emulator=find_emulator(),
        isa=cpu.isa,
    )


def installed() -> dict[str, str]:
    """Versions of the runtimes that this interpreter has."""
    found = {}
    for name in RUNTIMES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def read_title(root: Path = _ROOT) -> str:
    """The board's name in its device tree, a computer's in its firmware, else its host name."""
    board = _read(root / "proc/device-tree/model")
    if board:
        return board
    maker, product = (_read(root / "sys/class/dmi/id" / n) for n in ("sys_vendor", "product_name"))
    if product in _PLACEHOLDERS:
        return platform.node() or platform.machine()
    return product if maker in _PLACEHOLDERS or product.startswith(maker) else f"{maker} {product}"


def system_name() -> str:
    """Such as "Debian GNU/Linux 12 (bookworm), Linux 6.1.0-18-arm64"."""
    kernel = f"{platform.system()} {platform.release()}".strip()
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return kernel
    return f"{name}, {kernel}" if name else kernel


def free_bytes(folder: Path) -> int:
    """What this user can still write to the disk of ``folder``."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def find_emulator(python: str = sys.executable) -> str:
    """The program that emulates the processor, "" for none.

    qemu-user answers /proc/self/exe with the emulated program, but another process's link is the
    kernel's: it names what really runs.
    """
    try:
        child = subprocess.Popen(
            [python, "-I", "-S", "-c", "import sys; sys.stdin.read()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        return ""
    try:
        program = Path(f"/proc/{child.pid}/exe").readlink().name
    except OSError:  # no such file system, or not ours to read
        return ""
    finally:
        child.kill()
        child.communicate()
    return program if program.startswith(_EMULATOR) else ""


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    except OSError:
        return ""
