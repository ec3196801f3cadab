"""A kernel's machine code as a Linux program for 64-bit Arm, to be run by an emulator.

The program calls the kernel once, writes ``out`` to its standard output and ends. Nothing else is
in it, so that no Arm system is needed (encodings: Arm ARM DDI 0487, C6; ELF: System V ABI).
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

EMULATOR = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
_BASE = 0x400000
_HEADERS = 64 + 56
_START_WORDS = 32
_ALIGN = 64
_AARCH64 = 183
_WRITE, _EXIT = 64, 93


def run_on_arm(folder: Path, code: bytes, data: bytes, iterations: int, out: bytes) -> bytes:
    """``out`` after ``kernel(data, iterations, out)``, emulated with all extensions."""
    program = folder / "program"
    program.write_bytes(arm_program(code, data, iterations, out))
    program.chmod(0o755)
    assert EMULATOR is not None
    done = subprocess.run(
        [EMULATOR, "-cpu", "max", str(program)], capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout


def arm_program(code: bytes, data: bytes, iterations: int, out: bytes) -> bytes:
    """The ELF file: start, kernel, ``data`` and ``out`` in one segment."""
    places, image = [], bytearray(_HEADERS + 4 * _START_WORDS)
    for part in (code, data, out):
        image += bytes(-len(image) % _ALIGN)
        places.append(_BASE + len(image))
        image += part
    kernel_at, data_at, out_at = places
    start = [
        *_set(0, data_at),
        *_set(1, iterations),
        *_set(2, out_at),
        *_set(9, kernel_at),
        0xD63F0000 | 9 << 5,  # blr x9
        *_set(0, 1),
        *_set(1, out_at),
        *_set(2, len(out)),
        *_set(8, _WRITE),
        0xD4000001,  # svc 0
        *_set(0, 0),
        *_set(8, _EXIT),
        0xD4000001,
    ]
    assert len(start) <= _START_WORDS
    struct.pack_into(f"<{len(start)}I", image, _HEADERS, *start)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        *(2, _AARCH64, 1, _BASE + _HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0),
    )
    segment = struct.pack("<IIQQQQQQ", 1, 7, 0, _BASE, _BASE, len(image), len(image), 0x1000)
    image[:_HEADERS] = header + segment
    return bytes(image)


def _set(register: int, value: int) -> list[int]:
    """movz and movk: 32 bits of ``value`` into an X register."""
    low, high = value & 0xFFFF, value >> 16
    assert high <= 0xFFFF
    return [0xD2800000 | low << 5 | register, 0xF2A00000 | high << 5 | register]
