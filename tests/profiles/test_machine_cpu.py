"""What is read of the processor, from copies of other machines' files, and what they allow."""

import os
import platform
from pathlib import Path

import pytest

from mnv4_deploy.profiles.machine.cpu import (
    Cache,
    Cpu,
    fingerprint,
    limits_macs_per_s,
    may_saturate,
    read_apple,
    read_cpu,
    read_linux,
)

_ZEN4 = """processor\t: 0
model name\t: AMD EPYC 9R14
flags\t\t: fpu sse2 sse4_1 avx fma avx2 avx512f avx512bw avx512vl avx512_vnni rdpid
"""
_PIXEL = """processor\t: 0
Features\t: fp asimd evtstrm aes asimdhp asimddp i8mm
CPU implementer\t: 0x41
CPU part\t: 0xd4e
"""


def _sysfs(root: Path, cpus: int, caches: list[tuple[str, str, str, list[str]]]) -> Path:
    """``caches``: level, type, size, and for each CPU who shares it."""
    for cpu in range(cpus):
        folder = root / f"cpu{cpu}"
        (folder / "topology").mkdir(parents=True)
        (folder / "topology/physical_package_id").write_text("0\n")
        (folder / "topology/core_id").write_text(f"{cpu // 2}\n")
        for index, (level, kind, size, shared) in enumerate(caches):
            cache = folder / f"cache/index{index}"
            cache.mkdir(parents=True)
            (cache / "level").write_text(level + "\n")
            (cache / "type").write_text(kind + "\n")
            (cache / "size").write_text(size + "\n")
            (cache / "shared_cpu_list").write_text(shared[cpu] + "\n")
    (root / "cpufreq").mkdir()
    return root


def test_linux_server(tmp_path):
    (tmp_path / "cpuinfo").write_text(_ZEN4)
    pairs = ["0-1", "0-1", "2-3", "2-3"]
    sysfs = _sysfs(
        tmp_path / "cpu",
        4,
        [
            ("1", "Data", "32K", pairs),
            ("1", "Instruction", "64K", pairs),
            ("2", "Unified", "1024K", pairs),
            ("3", "Unified", "32M", ["0-3"] * 4),
        ],
    )
    cpu = read_linux(tmp_path / "cpuinfo", sysfs)
    assert cpu.model == "AMD EPYC 9R14"
    assert cpu.cores == 2  # four hardware threads
    assert cpu.isa == (
        *("sse4_1", "avx", "avx2", "fma"),
        *("avx512f", "avx512bw", "avx512vl", "avx512_vnni"),
    )
    assert cpu.caches == (
        Cache("L1", 32 << 10, 2),
        Cache("L2", 1 << 20, 2),
        Cache("L3", 32 << 20, 1),
    )
    assert [c.capacity_bytes(2) for c in cpu.caches] == [64 << 10, 2 << 20, 32 << 20]
    assert cpu.caches[0].capacity_bytes(8) == 64 << 10


def test_arm_with_unlike_cores_and_unknown_sizes(tmp_path):
    (tmp_path / "cpuinfo").write_text(_PIXEL)
    sysfs = _sysfs(
        tmp_path / "cpu", 2, [("1", "Data", "64K", ["0", "1"]), ("2", "Unified", "", ["0", "1"])]
    )
    (sysfs / "cpu1/cache/index0/size").write_text("32K\n")
    cpu = read_linux(tmp_path / "cpuinfo", sysfs)
    assert cpu.isa == ("neon", "dotprod", "i8mm")
    assert cpu.model.endswith("0xd4e")
    assert cpu.caches == (Cache("L1", 64 << 10, 2),)


def test_nothing_is_guessed_where_the_system_is_silent(tmp_path):
    cpu = read_linux(tmp_path / "absent", tmp_path / "absent")
    assert cpu == Cpu(platform.machine(), (), os.cpu_count() or 1, ())


def test_apple():
    known = {
        "machdep.cpu.brand_string": "Apple M1",
        "hw.physicalcpu": "8",
        "hw.perflevel0.physicalcpu": "4",
        "hw.perflevel0.cpusperl2": "4",
        "hw.perflevel0.l1dcachesize": "131072",
        "hw.perflevel0.l2cachesize": "12582912",
        "hw.optional.AdvSIMD": "1",
        "hw.optional.arm.FEAT_DotProd": "1",
        "hw.optional.arm.FEAT_I8MM": "0",
    }
    cpu = read_apple(lambda key: known.get(key, ""))
    assert cpu == Cpu(
        "Apple M1",
        ("neon", "dotprod"),
        8,
        (Cache("L1", 128 << 10, 4), Cache("L2", 12 << 20, 1)),
    )


def test_fingerprint_follows_the_processor():
    cpu = Cpu("A", ("avx2",), 2, (Cache("L1", 32768, 2),))
    assert fingerprint(cpu) == fingerprint(Cpu("A", ("avx2",), 2, (Cache("L1", 32768, 2),)))
    others = [
        Cpu("B", cpu.isa, cpu.cores, cpu.caches),
        Cpu("A", (), cpu.cores, cpu.caches),
        Cpu("A", cpu.isa, 4, cpu.caches),
        Cpu("A", cpu.isa, cpu.cores, ()),
    ]
    assert len({fingerprint(c) for c in (cpu, *others)}) == 5
    assert fingerprint() == fingerprint(read_cpu())


@pytest.mark.parametrize(
    ("isa", "floats", "integers"),
    [
        (("avx", "avx2", "fma"), 16, 32),
        (("avx2", "fma", "avx_vnni"), 16, 64),
        (("avx2", "fma", "avx512f", "avx512bw"), 32, 64),
        (("avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512_vnni"), 32, 128),
        (("avx2", "fma", "avx512f", "avx512bw", "avx512_vnni", "amx_int8"), 32, 1024),
        (("neon",), 16, 16),
        (("neon", "dotprod"), 16, 64),
    ],
)
def test_limits(isa, floats, integers):
    limits = limits_macs_per_s(2.5, isa) or {}
    assert limits["float32"] == pytest.approx(floats * 2.5e9)
    assert limits["int8"] == pytest.approx(integers * 2.5e9)
    assert set(limits) == {"float32", "int8", "uint8", "int8 dynamic"}


def test_no_limit_for_an_unknown_instruction_set():
    assert limits_macs_per_s(2.5, ()) is None
    assert limits_macs_per_s(2.5, ("sse4_1",)) is None
    assert limits_macs_per_s(2.5, ("neon", "dotprod", "i8mm", "sme")) is None


@pytest.mark.parametrize(
    ("architecture", "isa", "saturates"),
    [
        ("x86_64", ("avx2",), True),
        ("AMD64", ("avx2", "avx512f", "avx512bw"), True),
        ("x86_64", ("avx2", "avx_vnni"), False),
        ("x86_64", ("avx2", "avx512_vnni"), False),
        ("aarch64", (), False),
    ],
)
def test_where_pairs_of_int8_products_may_saturate(architecture, isa, saturates):
    assert may_saturate(architecture, isa) == saturates
