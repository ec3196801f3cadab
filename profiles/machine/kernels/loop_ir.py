"""LLVM IR of small loops that do one thing as fast as the processor can.

Each is ``void kernel(const void *data, int64 iterations, void *out)``: it starts its
accumulators from nothing or from ``data``, loops, and stores them to ``out``, so that nothing
of it can be optimised away and its result can be checked. Loops that read walk ``data`` block
by block and begin again at its end; all of the loop is inside, for a call costs a microsecond.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

_CLOCK_STEPS = 32
_FMA_REPEATS = 4
_READ_VECTORS = 32
_ADD_VECTORS = 8

Body = Callable[[Sequence[str]], tuple[list[str], list[str]]]


@dataclass(frozen=True)
class Kernel:
    """IR ("" where only its machine code is at hand) and what one iteration does.

    ``rows`` x ``columns`` accumulators; ``vector_bytes`` of a loaded operand; ``block_bytes`` of
    the data that an iteration goes over; ``saturates``: sums of two products may be cut off at
    16 bits.
    """

    name: str
    ir: str
    per_iteration: int
    rows: int = 0
    columns: int = 0
    vector_bytes: int = 0
    accumulator_bytes: int = 0
    block_bytes: int = 0
    saturates: bool = False


def clock() -> Kernel:
    """A chain in which every instruction waits for the one before: one cycle each.

    Alternating add and xor of registers cannot be merged by compiler or processor.
    """
    lines = ["%a = load i64, ptr %data", "%b = load i64, ptr %out"]

    def body(values: Sequence[str]) -> tuple[list[str], list[str]]:
        steps, value = [], values[0]
        for step in range(_CLOCK_STEPS):
            operation, operand = ("add", "%a") if step % 2 == 0 else ("xor", "%b")
            steps.append(f"%c{step} = {operation} i64 {value}, {operand}")
            value = f"%c{step}"
        return steps, [value]

    return Kernel("clock", loop("i64", ["%a"], body, before=lines), _CLOCK_STEPS)


def fma(isa: Sequence[str]) -> Kernel:
    """Independent chains of fused multiply-adds, as many as registers hold."""
    lanes = 16 if "avx512f" in isa else 8 if "avx2" in isa else 4
    chains = 24 if {"avx512f", "neon"} & set(isa) else 12
    fused = {"fma", "neon", "avx512f"} & set(isa)
    vector = f"<{lanes} x float>"
    loads = [f"%x{k}" for k in range(chains + 2)]
    before = [
        line
        for k, name in enumerate(loads)
        for line in (
            f"{name}p = getelementptr {vector}, ptr %data, i64 {k}",
            f"{name} = load {vector}, ptr {name}p, align 4",
        )
    ]

    def body(values: Sequence[str]) -> tuple[list[str], list[str]]:
        steps, now = [], list(values)
        for repeat in range(_FMA_REPEATS):
            for k in range(chains):
                name = f"%r{repeat}_{k}"
                if fused:
                    steps.append(
                        f"{name} = call {vector} @llvm.fma.v{lanes}f32({vector} %x0,"
                        f" {vector} %x1, {vector} {now[k]})"
                    )
                else:
                    steps.append(f"{name}m = fmul {vector} %x0, {now[k]}")
                    steps.append(f"{name} = fadd {vector} {name}m, %x1")
                now[k] = name
        return steps, now

    declare = f"declare {vector} @llvm.fma.v{lanes}f32({vector}, {vector}, {vector})"
    return Kernel(
        "fma" if fused else "mul + add",
        loop(vector, loads[2:], body, before=before, declare=declare if fused else ""),
        lanes * chains * _FMA_REPEATS,
        rows=chains,
        columns=1,
        vector_bytes=4 * lanes,
        accumulator_bytes=4 * lanes,
    )


def read(isa: Sequence[str]) -> Kernel:
    """Reads ``iterations`` blocks of adjacent vectors and xors them.

    The first 8 bytes of ``out`` are the number of blocks in ``data``.
    """
    width = 16 if "avx512f" in isa else 8 if "avx2" in isa else 4
    vector = f"<{width} x i32>"
    accumulators = 8

    def body(values: Sequence[str]) -> tuple[list[str], list[str]]:
        steps, now = [f"%base = mul i64 %block, {_READ_VECTORS}"], list(values)
        for k in range(_READ_VECTORS):
            slot = k % accumulators
            steps += [
                f"%o{k} = add i64 %base, {k}",
                f"%p{k} = getelementptr {vector}, ptr %data, i64 %o{k}",
                f"%v{k} = load {vector}, ptr %p{k}, align {4 * width}",
                f"%s{k} = xor {vector} {now[slot]}, %v{k}",
            ]
            now[slot] = f"%s{k}"
        return steps, now

    return Kernel(
        "read",
        loop(
            vector,
            ["zeroinitializer"] * accumulators,
            body,
            before=["%blocks = load i64, ptr %out"],
            blocks="%blocks",
        ),
        4 * width * _READ_VECTORS,
        rows=accumulators,
        columns=1,
        vector_bytes=4 * width,
        accumulator_bytes=4 * width,
        block_bytes=4 * width * _READ_VECTORS,
    )


def add(isa: Sequence[str]) -> Kernel:
    """Adds the second half of each of ``iterations`` blocks of adjacent vectors to the first.

    Caches read and write at the same time, so that this moves more bytes a second than reading
    alone: a runtime adds in place like this. The first 8 bytes of ``out`` are the number of
    blocks in ``data``.
    """
    width = 16 if "avx512f" in isa else 8 if "avx2" in isa else 4
    vector = f"<{width} x i32>"

    def body(values: Sequence[str]) -> tuple[list[str], list[str]]:
        steps = [f"%base = mul i64 %block, {2 * _ADD_VECTORS}"]
        for k in range(_ADD_VECTORS):
            for name, offset in (("a", 0), ("b", _ADD_VECTORS)):
                steps += [
                    f"%o{name}{k} = add i64 %base, {k + offset}",
                    f"%p{name}{k} = getelementptr {vector}, ptr %data, i64 %o{name}{k}",
                ]
            steps += [
                f"%a{k} = load {vector}, ptr %pa{k}, align {4 * width}",
                f"%b{k} = load {vector}, ptr %pb{k}, align {4 * width}",
                f"%c{k} = add {vector} %a{k}, %b{k}",
                f"store {vector} %c{k}, ptr %pa{k}, align {4 * width}",
            ]
        return [*steps, f"%last = or {vector} {values[0]}, %c0"], ["%last"]

    return Kernel(
        "add",
        loop(
            vector,
            ["zeroinitializer"],
            body,
            before=["%blocks = load i64, ptr %out"],
            blocks="%blocks",
        ),
        4 * width * 3 * _ADD_VECTORS,
        rows=1,
        columns=1,
        vector_bytes=4 * width,
        accumulator_bytes=4 * width,
        block_bytes=4 * width * 2 * _ADD_VECTORS,
    )


def loop(
    vector: str,
    start: Sequence[str],
    body: Body,
    *,
    before: Sequence[str] = (),
    declare: str = "",
    blocks: str = "1",
) -> str:
    """A counted loop over accumulators of type ``vector`` that begin as ``start``.

    ``%block`` counts to ``blocks`` and begins again.
    """
    names = [f"%acc{k}" for k in range(len(start))]
    steps, results = body(names)
    phis = [
        f"{name} = phi {vector} [ {first}, %entry ], [ {last}, %loop ]"
        for name, first, last in zip(names, start, results, strict=True)
    ]
    stores = [
        line
        for k, last in enumerate(results)
        for line in (
            f"%q{k} = getelementptr {vector}, ptr %out, i64 {k}",
            f"store {vector} {last}, ptr %q{k}, align 4",
        )
    ]
    return "\n".join(
        [
            declare,
            # Without unwinding tables: machine code that travels has no place for them.
            "define void @kernel(ptr %data, i64 %iterations, ptr %out) nounwind {",
            "entry:",
            *before,
            "br label %loop",
            "loop:",
            "%i = phi i64 [ 0, %entry ], [ %next, %loop ]",
            "%block = phi i64 [ 0, %entry ], [ %following, %loop ]",
            *phis,
            *steps,
            "%after = add i64 %block, 1",
            f"%end = icmp eq i64 %after, {blocks}",
            "%following = select i1 %end, i64 0, i64 %after",
            "%next = add i64 %i, 1",
            "%again = icmp ult i64 %next, %iterations",
            "br i1 %again, label %loop, label %exit",
            "exit:",
            *stores,
            "ret void",
            "}",
        ]
    )
