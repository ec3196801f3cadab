"""LLVM IR of the register tile of XNNPACK's int8 matrix product on AVX2.

XNNPACK's ``qs8_qc8w_gemm 3x8c8`` takes three rows, eight columns and eight products at a time: a
register holds two columns, and the eight products of a row are widened and copied to both its
halves. Widening and copying take as many slots as multiplying, so that this tile, not the
multipliers, bounds the kernel: written here anew, it must run as fast as XNNPACK does.
"""

from __future__ import annotations

from collections.abc import Sequence

from mnv4_deploy.profiles.machine.kernels.loop_ir import Kernel, loop

NAME = "int8 in XNNPACK's tile"
ROWS, REGISTERS, DEPTH = 3, 4, 8  # a register holds two columns
STEPS_PER_BLOCK, BLOCKS = 2, 8
STEP_BYTES = (ROWS + 2 * REGISTERS) * DEPTH
_MULTIPLY = "@llvm.x86.avx2.pmadd.wd"


def xnnpack_tile(isa: Sequence[str]) -> Kernel | None:
    """The tile, where XNNPACK uses it: AVX2 and nothing wider."""
    has = set(isa)
    if "avx2" not in has or has & {"avx512bw", "avx_vnni"}:
        return None
    return Kernel(
        NAME,
        loop(
            "<8 x i32>",
            ["zeroinitializer"] * (ROWS * REGISTERS),
            _body,
            declare=f"declare <8 x i32> {_MULTIPLY}(<16 x i16>, <16 x i16>)",
            blocks=str(BLOCKS),
        ),
        2 * DEPTH * ROWS * REGISTERS * STEPS_PER_BLOCK,
        rows=ROWS,
        columns=REGISTERS,
        vector_bytes=2 * DEPTH,
        accumulator_bytes=32,
        block_bytes=STEP_BYTES * STEPS_PER_BLOCK,
    )


def _body(values: Sequence[str]) -> tuple[list[str], list[str]]:
    lines = [f"%base = mul i64 %block, {STEP_BYTES * STEPS_PER_BLOCK}"]
    now = list(values)
    both_halves = ", ".join(f"i32 {k % DEPTH}" for k in range(2 * DEPTH))
    for step in range(STEPS_PER_BLOCK):
        start = step * STEP_BYTES
        for row in range(ROWS):
            name = f"a{step}_{row}"
            lines += [
                *_widened(name, start + row * DEPTH, DEPTH),
                f"%{name} = shufflevector <8 x i16> %{name}w, <8 x i16> undef,"
                f" <16 x i32> <{both_halves}>",
            ]
        for register in range(REGISTERS):
            at = start + (ROWS + 2 * register) * DEPTH
            lines += _widened(f"b{step}_{register}", at, 2 * DEPTH)
        for n, value in enumerate(now):
            row, register = divmod(n, REGISTERS)
            now[n] = f"%r{step}_{n}"
            lines += [
                f"%p{step}_{n} = call <8 x i32> {_MULTIPLY}(<16 x i16> %a{step}_{row},"
                f" <16 x i16> %b{step}_{register}w)",
                f"{now[n]} = add <8 x i32> {value}, %p{step}_{n}",
            ]
    return lines, now


def _widened(name: str, offset: int, count: int) -> list[str]:
    """``count`` bytes at ``offset`` as 16-bit integers, ``%{name}w``."""
    return [
        f"%{name}o = add i64 %base, {offset}",
        f"%{name}p = getelementptr i8, ptr %data, i64 %{name}o",
        f"%{name}l = load <{count} x i8>, ptr %{name}p, align 1",
        f"%{name}w = sext <{count} x i8> %{name}l to <{count} x i16>",
    ]
