"""An aarch64 Debian root file system with the runtimes of this environment, for qemu-user."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

USER, UID = "pi", 1000
RUNTIMES = ("ai-edge-litert", "onnxruntime")
QEMU = "qemu-aarch64-static"
# What qemu calls a processor, and its implementer and part in Arm's MIDR_EL1.
CPUS = {
    "cortex-a53": ("cortex-a53", 0x41, 0xD03),
    "cortex-a72": ("cortex-a72", 0x41, 0xD08),
    "cortex-a76": ("cortex-a76", 0x41, 0xD0B),
    "neoverse-n1": ("neoverse-n1", 0x41, 0xD0C),
    # All that this qemu can emulate but SME: qemu 7.2 gets SMOPA's sums wrong, with which XNNPACK
    # then computes every int8 convolution.
    "max": ("max,sme=off", 0x00, 0x051),
}
_SUITE, _PYTHON = "bookworm", "3.11"
_PACKAGES = ("ca-certificates", "libgomp1", "libstdc++6", "procps", "python3", "python3-venv")
# What the runtimes import; the rest of what their wheels name is for converting models.
_WITH_THEM = ("numpy", "flatbuffers", "protobuf")
_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
_SITE = f"usr/local/lib/python{_PYTHON}/dist-packages"
_BINFMT = Path("/proc/sys/fs/binfmt_misc")
_MINE = "mnv4-arm-device"
# The start of an ELF executable or library for aarch64, and which of its bits count.
_MAGIC = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xb7\x00"
_MASK = b"\xff" * 7 + b"\x00" + b"\xff" * 8 + b"\xfe\xff\xff\xff"


class ArmDeviceError(Exception):
    """Something is missing or failed; the message says what to do."""


def require(*programs: str) -> dict[str, str]:
    """Where the programs are; ArmDeviceError where one is missing or we are not root."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        raise ArmDeviceError("Making and running a root file system needs root on Linux.")
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    found = {name: shutil.which(name, path=path) for name in programs}
    missing = [name for name, place in found.items() if place is None]
    if missing:
        raise ArmDeviceError(
            f"{' and '.join(missing)} not found: install Debian's debootstrap, qemu-user-static,"
            " openssh-server, openssh-client and util-linux."
        )
    return {name: place for name, place in found.items() if place is not None}


@contextlib.contextmanager
def emulation() -> Iterator[None]:
    """Let the kernel start aarch64 programs through qemu, as long as the context lasts."""
    qemu = require(QEMU, "mount", "umount")[QEMU]
    mounted = not (_BINFMT / "register").exists()
    if mounted:
        _run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(_BINFMT)])
    mine = not any(_works(_BINFMT / name) for name in (_MINE, "qemu-aarch64"))
    try:
        if mine:
            magic, mask = ("".join(f"\\x{b:02x}" for b in code) for code in (_MAGIC, _MASK))
            # F: qemu is opened now, so that it need not be inside the root.
            (_BINFMT / "register").write_text(f":{_MINE}:M::{magic}:{mask}:{qemu}:F")
        yield
    finally:
        if mine and (_BINFMT / _MINE).exists():
            (_BINFMT / _MINE).write_text("-1")
        if mounted:
            _run(["umount", str(_BINFMT)])


def _works(entry: Path) -> bool:
    lines = entry.read_text().splitlines() if entry.exists() else []
    return "enabled" in lines and any(
        line.startswith("flags:") and "F" in line.removeprefix("flags:") for line in lines
    )


def private(script: str) -> list[str]:
    """The command that runs ``script`` with mounts and processes of its own, all of which end
    with it, and it with us."""
    return [
        *("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private"),
        *("--pid", "--mount-proc", "--fork", "--kill-child", "sh", "-ec", script),
    ]


def mounts(root: Path, cpu: str, scratch: str = "/run") -> str:
    """The script that mounts in ``root`` what programs expect there, in a private namespace.

    Both runtimes look their processor up in /proc/cpuinfo, and crash on that of another
    architecture, which is what qemu-user shows.
    """
    _, implementer, part = CPUS[cpu]
    core = (
        f"CPU implementer\\t: {implementer:#04x}\\nCPU architecture: 8\\nCPU variant\\t: 0x0\\n"
        f"CPU part\\t: {part:#05x}\\nCPU revision\\t: 0\\n\\n"
    )
    count = len(os.sched_getaffinity(0))
    cores = "".join(f"processor\\t: {i}\\n{core}" for i in range(count))
    inside = shlex.quote(str(root))
    return "\n".join(
        (
            f"mount -t tmpfs -o mode=755 tmpfs {scratch}",
            f"mount -t proc proc {inside}/proc",
            f"mount --rbind /dev {inside}/dev",
            f"mount --rbind -o ro /sys {inside}/sys",
            f"printf '{cores}' > {scratch}/cpuinfo",
            f"mount --bind {scratch}/cpuinfo {inside}/proc/cpuinfo",
        )
    )


def make_root(root: Path, mirror: str, wheels: Path | None) -> None:
    """Make what is still missing of the root; a second call does nothing.

    ``wheels`` is a folder with all the aarch64 wheels, where the package index is not to be
    asked. Raises ArmDeviceError.
    """
    tools = require("debootstrap", "unshare", "setpriv", "chroot", QEMU)
    root.mkdir(parents=True, exist_ok=True)
    if not (root / "usr/bin/dpkg").exists():
        command = [tools["debootstrap"], "--arch=arm64", "--foreign", "--variant=minbase"]
        command += [f"--include={','.join(_PACKAGES)}", _SUITE, str(root)]
        _run(command + ([mirror] if mirror else []))
    if (root / "debootstrap").exists():
        _second_stage(root)
    _install_wheels(root, wheels)
    _add_user(root)


def check_root(root: Path) -> None:
    """ArmDeviceError where :func:`make_root` has not finished."""
    if not (root / "home" / USER).is_dir():
        raise ArmDeviceError(
            f"{root} is no finished device: run `python benchmarks/arm_device.py make --root"
            f" {root}` first."
        )


def _second_stage(root: Path) -> None:
    if (root / "proc").is_symlink():  # debootstrap leaves this in containers
        (root / "proc").unlink()
        (root / "proc").mkdir()
    stage = f"chroot {shlex.quote(str(root))} /debootstrap/debootstrap --second-stage"
    environment = {
        **{"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"},
        **{"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
    }
    with emulation():
        _run(private(f"{mounts(root, 'cortex-a76')}\n{stage}"), environment)


def _install_wheels(root: Path, wheels: Path | None) -> None:
    """The versions of this environment, so that nothing but the processor differs."""
    site = root / _SITE
    wanted = {name: importlib.metadata.version(name) for name in (*RUNTIMES, *_WITH_THEM)}
    there = {
        found.name.lower().replace("_", "-"): found.version
        for found in importlib.metadata.distributions(path=[str(site)])
    }
    if all(there.get(name) == version for name, version in wanted.items()):
        return
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade"]
    command += ["--disable-pip-version-check", "--target", str(site)]
    command += ["--only-binary=:all:", "--python-version", _PYTHON, "--implementation", "cp"]
    for platform in _PLATFORMS:
        command += ["--platform", platform]
    if wheels is not None:
        command += ["--no-index", "--find-links", str(wheels)]
    _run(command + [f"{name}=={version}" for name, version in wanted.items()])


def _add_user(root: Path) -> None:
    users = root / "etc/passwd"
    if f"\n{USER}:" not in users.read_text():
        with users.open("a") as file:
            file.write(f"{USER}:x:{UID}:{UID}::/home/{USER}:/bin/sh\n")
        with (root / "etc/group").open("a") as file:
            file.write(f"{USER}:x:{UID}:\n")
    home = root / "home" / USER
    home.mkdir(exist_ok=True)
    os.chown(home, UID, UID)


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    # What it says goes to standard error: standard output is for the device's address.
    done = subprocess.run(command, env=environment, stdout=sys.stderr, check=False)
    if done.returncode != 0:
        raise ArmDeviceError(f"`{shlex.join(command[:12])}` failed: its messages say why.")
