"""LLVM IR of inner products of 8-bit integers, by every instruction sequence that kernels use.

See :mod:`mnv4_deploy.profiles.machine.kernels.loop_ir` for what a kernel is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mnv4_deploy.profiles.machine.kernels.loop_ir import Kernel, loop

# Rows and columns whose accumulators and operands the registers hold (16, or 32 of 512 bits).
_TILES = {256: (3, 3), 512: (5, 4)}
# Steps of the panel that a kernel walks, small enough for any L1 cache, and how many of them it
# does between two branches.
PANEL_STEPS = 16
_STEPS_PER_BLOCK = 2


@dataclass(frozen=True)
class Sequence8:
    """How an instruction set multiplies 8-bit integers.

    ``step`` makes of accumulator, row operand and column operand (names of values) the lines
    that compute ``{result}``. ``widen`` is the type operands are extended to after loading;
    ``before`` are lines ahead of the loop.
    """

    name: str
    lanes: int
    load: str
    widen: str
    products: int
    declare: str
    step: str
    rows: int
    columns: int
    saturates: bool = False
    before: tuple[str, ...] = ()


def integer_kernels(isa: Sequence[str]) -> tuple[Kernel, ...]:
    """A register-tiled inner product of 8-bit operands for each sequence ``isa`` has.

    The operands are loaded at every step, as a matrix product has to.
    """
    return tuple(_tile(s) for s in _sequences(isa))


def _sequences(isa: Sequence[str]) -> list[Sequence8]:
    has = set(isa)
    if "neon" in has:
        return _arm_sequences(has)
    if "avx2" not in has:
        return []
    wide = {"avx512f", "avx512bw"} <= has
    found = [_maddwd(256, before=False), _maddwd(256, before=True), _maddubs(256)]
    if wide:
        found += [_maddwd(512, before=False), _maddwd(512, before=True), _maddubs(512)]
    if {"avx512_vnni", "avx512vl"} <= has or "avx_vnni" in has:
        found.append(_dpbusd(256))
    if wide and "avx512_vnni" in has:
        found.append(_dpbusd(512))
    return found


def _maddwd(bits: int, *, before: bool) -> Sequence8:
    """Exact: XNNPACK's qs8 widens in the loop, MLAS's u8u8 ``before`` it."""
    products, lanes = bits // 16, bits // 32
    name = {256: "avx2.pmadd.wd", 512: "avx512.pmaddw.d.512"}[bits]
    wide, sums = f"<{products} x i16>", f"<{lanes} x i32>"
    return Sequence8(
        name=f"vpmaddwd, widened before ({bits})" if before else f"vpmovsxbw + vpmaddwd ({bits})",
        lanes=lanes,
        load=wide if before else f"<{products} x i8>",
        widen="" if before else wide,
        products=products,
        declare=f"declare {sums} @llvm.x86.{name}({wide}, {wide})",
        step=f"{{r}}p = call {sums} @llvm.x86.{name}({wide} {{a}}, {wide} {{b}})\n"
        f"{{r}} = add {sums} {{acc}}, {{r}}p",
        rows=_TILES[bits][0],
        columns=_TILES[bits][1],
    )


def _maddubs(bits: int) -> Sequence8:
    """Sums of two products saturate at 16 bits: MLAS's u8s8 without VNNI.

    The ones that pairs are multiplied by go through memory: the compiler would keep a constant
    beside the code, which then could not be moved alone.
    """
    products, lanes = bits // 8, bits // 32
    first, second = {
        256: ("avx2.pmadd.ub.sw", "avx2.pmadd.wd"),
        512: ("avx512.pmaddubs.w.512", "avx512.pmaddw.d.512"),
    }[bits]
    octets, pairs, sums = f"<{products} x i8>", f"<{products // 2} x i16>", f"<{lanes} x i32>"
    before = (
        "store volatile i16 1, ptr %out",
        "%one = load volatile i16, ptr %out",
        f"%first = insertelement {pairs} undef, i16 %one, i32 0",
        f"%ones = shufflevector {pairs} %first, {pairs} undef,"
        f" <{products // 2} x i32> zeroinitializer",
    )
    return Sequence8(
        name=f"vpmaddubsw + vpmaddwd ({bits})",
        lanes=lanes,
        load=octets,
        widen="",
        products=products,
        declare=f"declare {pairs} @llvm.x86.{first}({octets}, {octets})\n"
        f"declare {sums} @llvm.x86.{second}({pairs}, {pairs})",
        step=f"{{r}}q = call {pairs} @llvm.x86.{first}({octets} {{a}}, {octets} {{b}})\n"
        f"{{r}}p = call {sums} @llvm.x86.{second}({pairs} {{r}}q, {pairs} %ones)\n"
        f"{{r}} = add {sums} {{acc}}, {{r}}p",
        rows=_TILES[bits][0],
        columns=_TILES[bits][1],
        saturates=True,
        before=before,
    )


def _dpbusd(bits: int) -> Sequence8:
    lanes = bits // 32
    octets, sums = f"<{4 * lanes} x i8>", f"<{lanes} x i32>"
    name = f"@llvm.x86.avx512.vpdpbusd.{bits}"
    return Sequence8(
        name=f"vpdpbusd ({bits})",
        lanes=lanes,
        load=octets,
        widen="",
        products=4 * lanes,
        declare=f"declare {sums} {name}({sums}, {octets}, {octets})",
        step=f"{{r}} = call {sums} {name}({sums} {{acc}}, {octets} {{a}}, {octets} {{b}})",
        rows=_TILES[bits][0],
        columns=_TILES[bits][1],
    )


def _arm_sequences(has: set[str]) -> list[Sequence8]:
    sums, octets = "<4 x i32>", "<16 x i8>"

    def dot(name: str, products: int) -> Sequence8:
        call = f"@llvm.aarch64.neon.{name}.v4i32.v16i8"
        return Sequence8(
            name=name,
            lanes=4,
            load=octets,
            widen="",
            products=products,
            declare=f"declare {sums} {call}({sums}, {octets}, {octets})",
            step=f"{{r}} = call {sums} {call}({sums} {{acc}}, {octets} {{a}}, {octets} {{b}})",
            rows=_TILES[512][0],
            columns=_TILES[512][1],
        )

    multiply, pair = "@llvm.aarch64.neon.smull.v8i16", "@llvm.aarch64.neon.saddlp.v4i32.v8i16"
    plain = Sequence8(
        name="smull + sadalp",
        lanes=4,
        load="<8 x i8>",
        widen="",
        products=8,
        declare=f"declare <8 x i16> {multiply}(<8 x i8>, <8 x i8>)\n"
        f"declare {sums} {pair}(<8 x i16>)",
        step=f"{{r}}q = call <8 x i16> {multiply}(<8 x i8> {{a}}, <8 x i8> {{b}})\n"
        f"{{r}}p = call {sums} {pair}(<8 x i16> {{r}}q)\n"
        f"{{r}} = add {sums} {{acc}}, {{r}}p",
        rows=4,
        columns=4,
    )
    found = [plain]
    if "dotprod" in has:
        found.append(dot("sdot", 16))
    if "i8mm" in has:
        found.append(dot("smmla", 32))
    return found


def _tile(sequence: Sequence8) -> Kernel:
    rows, columns = sequence.rows, sequence.columns
    operands = rows + columns
    sums = f"<{sequence.lanes} x i32>"
    count, octet_bits = (int(n) for n in sequence.load.strip("<>").split(" x i"))
    vector_bytes = count * octet_bits // 8

    def body(values: Sequence[str]) -> tuple[list[str], list[str]]:
        lines = [f"%base = mul i64 %block, {operands * _STEPS_PER_BLOCK}"]
        now = list(values)
        for step in range(_STEPS_PER_BLOCK):
            names = []
            for k in range(step * operands, (step + 1) * operands):
                lines += [
                    f"%o{k} = add i64 %base, {k}",
                    f"%p{k} = getelementptr {sequence.load}, ptr %data, i64 %o{k}",
                    f"%v{k} = load {sequence.load}, ptr %p{k}, align {vector_bytes}",
                ]
                if sequence.widen:
                    lines.append(f"%w{k} = sext {sequence.load} %v{k} to {sequence.widen}")
                names.append(f"%w{k}" if sequence.widen else f"%v{k}")
            for n, value in enumerate(now):
                row, column = divmod(n, columns)
                result = f"%r{step}_{n}"
                lines += sequence.step.format(
                    r=result, acc=value, a=names[row], b=names[rows + column]
                ).split("\n")
                now[n] = result
        return lines, now

    return Kernel(
        sequence.name,
        loop(
            sums,
            ["zeroinitializer"] * (rows * columns),
            body,
            before=sequence.before,
            declare=sequence.declare,
            blocks=str(PANEL_STEPS // _STEPS_PER_BLOCK),
        ),
        sequence.products * rows * columns * _STEPS_PER_BLOCK,
        rows=rows,
        columns=columns,
        vector_bytes=vector_bytes,
        accumulator_bytes=4 * sequence.lanes,
        saturates=sequence.saturates,
    )
