"""What the system tells about the processor: model, instruction sets, cores, caches.

What it does not tell is absent from the record, never guessed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Linux's names of an instruction set -> ours. Only those that decide how fast kernels can be.
_LINUX_FLAGS = {
    "sse4_1": "sse4_1",
    "avx": "avx",
    "avx2": "avx2",
    "fma": "fma",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512vl": "avx512vl",
    "avx_vnni": "avx_vnni",
    "avx512_vnni": "avx512_vnni",
    "amx_int8": "amx_int8",
    "neon": "neon",
    "asimd": "neon",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "sme": "sme",
}
# LLVM's names, for systems that do not list theirs.
LLVM_FEATURES = {
    "sse4.1": "sse4_1",
    "avx": "avx",
    "avx2": "avx2",
    "fma": "fma",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512vl": "avx512vl",
    "avxvnni": "avx_vnni",
    "avx512vnni": "avx512_vnni",
    "amx-int8": "amx_int8",
    "neon": "neon",
    "dotprod": "dotprod",
    "i8mm": "i8mm",
    "sme": "sme",
}
_ARM = ("neon", "dotprod", "i8mm", "sme")
# Our names by architecture, as `uname -m` calls it.
INSTRUCTION_SETS = {
    "x86_64": tuple(name for name in LLVM_FEATURES.values() if name not in _ARM),
    "aarch64": _ARM,
}
_APPLE_FEATURES = {
    "hw.optional.avx1_0": "avx",
    "hw.optional.avx2_0": "avx2",
    "hw.optional.fma": "fma",
    "hw.optional.avx512f": "avx512f",
    "hw.optional.AdvSIMD": "neon",
    "hw.optional.arm.FEAT_DotProd": "dotprod",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_SME": "sme",
}
_X86 = frozenset({"x86_64", "amd64", "i686", "i386"})
_SIZE = re.compile(r"(\d+)([KMG]?)")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_SYSFS = Path("/sys/devices/system/cpu")
_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Cache:
    """A data or unified cache. ``instances`` is how many of it the machine has."""

    name: str
    size_bytes: int
    instances: int

    def capacity_bytes(self, threads: int) -> int:
        """What ``threads`` threads, each on a core of its own, have of it together."""
        return self.size_bytes * min(threads, self.instances)


@dataclass(frozen=True)
class Cpu:
    """``cores`` are physical ones where the system tells; ``caches`` from L1 outwards."""

    model: str
    isa: tuple[str, ...]
    cores: int
    caches: tuple[Cache, ...]


def read_cpu() -> Cpu:
    """This machine's processor."""
    if platform.system() == "Linux":
        return read_linux(_CPUINFO, _SYSFS)
    if platform.system() == "Darwin":
        return read_apple(_sysctl)
    return Cpu(platform.processor() or platform.machine(), _llvm_isa(), _logical_cpus(), ())


def fingerprint(cpu: Cpu | None = None) -> str:
    """16 hexadecimal digits that change when the processor does."""
    known = cpu or read_cpu()
    text = repr((platform.system(), platform.machine(), known))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_linux(cpuinfo: Path, sysfs: Path) -> Cpu:
    """From ``/proc/cpuinfo`` and ``/sys/devices/system/cpu``, or copies of them."""
    text = _read(cpuinfo)
    facts = dict(
        (key.strip(), value.strip())
        for key, _, value in (line.partition(":") for line in text.splitlines())
        if value.strip()
    )
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    part = f"{platform.machine()} part {facts['CPU part']}" if "CPU part" in facts else ""
    folders = sorted(p for p in sysfs.glob("cpu[0-9]*") if p.name.removeprefix("cpu").isdigit())
    places = {
        (_read(f / "topology/physical_package_id"), _read(f / "topology/core_id"))
        for f in folders
        if (f / "topology/core_id").is_file()
    }
    return Cpu(
        model=facts.get("model name") or facts.get("Hardware") or part or platform.machine(),
        isa=_ordered(_LINUX_FLAGS[f] for f in flags if f in _LINUX_FLAGS),
        cores=len(places) or _logical_cpus(),
        caches=_linux_caches(folders),
    )


def _linux_caches(folders: Sequence[Path]) -> tuple[Cache, ...]:
    """Each level at its largest: the caches of the fastest cores where cores differ."""
    sizes: dict[str, int] = {}
    shared_by: dict[str, set[str]] = {}
    for index in (i for f in folders for i in sorted((f / "cache").glob("index*"))):
        match = _SIZE.fullmatch(_read(index / "size"))
        level = _read(index / "level")
        if _read(index / "type") not in ("Data", "Unified") or not match or not level:
            continue
        name = f"L{level}"
        sizes[name] = max(sizes.get(name, 0), int(match[1]) * _UNITS[match[2]])
        owners = _read(index / "shared_cpu_list") or index.parent.parent.name
        shared_by.setdefault(name, set()).add(owners)
    return tuple(
        Cache(name, sizes[name], len(shared_by[name])) for name in sorted(sizes) if sizes[name]
    )


def read_apple(sysctl: Callable[[str], str]) -> Cpu:
    """From macOS's ``sysctl``, given as a function from key to value ("" for unknown)."""
    cores = int(sysctl("hw.perflevel0.physicalcpu") or sysctl("hw.physicalcpu") or 0)
    per_l2 = int(sysctl("hw.perflevel0.cpusperl2") or 1)
    caches = []
    for name, key, sharers in (
        ("L1", "l1dcachesize", 1),
        ("L2", "l2cachesize", per_l2),
        ("L3", "l3cachesize", cores or 1),
    ):
        size = int(sysctl(f"hw.perflevel0.{key}") or sysctl(f"hw.{key}") or 0)
        if size:
            caches.append(Cache(name, size, max(1, cores // sharers)))
    return Cpu(
        model=sysctl("machdep.cpu.brand_string") or platform.machine(),
        isa=_ordered(ours for key, ours in _APPLE_FEATURES.items() if sysctl(key) == "1"),
        cores=int(sysctl("hw.physicalcpu") or 0) or _logical_cpus(),
        caches=tuple(caches),
    )


def may_saturate(architecture: str, isa: Iterable[str]) -> bool:
    """Whether onnxruntime's int8 kernels add pairs of products in saturating int16.

    On x86, unless it says that it has VNNI; Arm adds exactly. ``architecture`` is what
    `uname -m` calls it.
    """
    return architecture.lower() in _X86 and not any("vnni" in name for name in isa)


def limits_macs_per_s(clock_ghz: float, isa: Sequence[str]) -> Mapping[str, float] | None:
    """MAC/s that one core cannot exceed, by compute type; None for an unknown instruction set.

    MACs per cycle are those of the widest cores with that instruction set (vendors'
    optimization manuals; uops.info): two 256-bit FMA units with AVX2 (16 float32), two 512-bit
    ones with AVX-512 (32; a core that splits 512-bit vectors reaches 16), four 128-bit pipes
    with NEON (16; most have two). int8: two vpmaddwd of 16 products a cycle with AVX2, or the
    same of vpmaddubsw + vpmaddwd pairs (32); twice as wide 64; vpdpbusd 64 in 256 and 128 in
    512 bits, an AMX tile 1024; on Arm sdot of 16 (64), smmla of 32 (128), else widening
    multiplies (16). The width of SME units is not known from the name alone: None.
    """
    has = set(isa)
    if "sme" in has:
        return None
    if "neon" in has:
        floats = 16
        integers = 128 if "i8mm" in has else 64 if "dotprod" in has else 16
    elif "avx2" in has and "fma" in has:
        wide = {"avx512f", "avx512bw"} <= has
        floats = 32 if wide else 16
        integers = 64 if wide or "avx_vnni" in has else 32
        integers = 128 if "avx512_vnni" in has else integers
        integers = 1024 if "amx_int8" in has else integers
    else:
        return None
    per_cycle = {
        "float32": floats,
        "int8": integers,
        "uint8": integers,
        "int8 dynamic": integers,
    }
    return {compute: macs * clock_ghz * 1e9 for compute, macs in per_cycle.items()}


def _llvm_isa() -> tuple[str, ...]:
    try:
        from llvmlite import binding
    except ImportError:
        return ()
    present = binding.get_host_cpu_features().items()
    return _ordered(LLVM_FEATURES[f] for f, there in present if there and f in LLVM_FEATURES)


def _ordered(names: Iterable[str]) -> tuple[str, ...]:
    found = set(names)
    return tuple(n for n in dict.fromkeys(_LINUX_FLAGS.values()) if n in found)


def _logical_cpus() -> int:
    return os.cpu_count() or 1


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _sysctl(key: str) -> str:
    try:
        done = subprocess.run(
            ["/usr/sbin/sysctl", "-n", key], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip()
