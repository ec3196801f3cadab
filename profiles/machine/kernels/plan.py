"""Which kernels measure a processor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mnv4_deploy.profiles.machine.kernels import integer_ir, loop_ir, tile_ir
from mnv4_deploy.profiles.machine.kernels.loop_ir import Kernel


@dataclass(frozen=True)
class KernelPlan:
    """``floats`` multiplies and adds; ``integers`` are inner products of 8 bits, by sequence."""

    clock: Kernel
    floats: Kernel
    read: Kernel
    add: Kernel
    integers: tuple[Kernel, ...]

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """All of them; no two have the same name."""
        return (self.clock, self.floats, self.read, self.add, *self.integers)


def plan_for(isa: Sequence[str]) -> KernelPlan:
    """The kernels of a processor with the instruction sets ``isa`` (as in ``Cpu.isa``)."""
    tile = tile_ir.xnnpack_tile(isa)
    return KernelPlan(
        clock=loop_ir.clock(),
        floats=loop_ir.fma(isa),
        read=loop_ir.read(isa),
        add=loop_ir.add(isa),
        integers=(*integer_ir.integer_kernels(isa), *((tile,) if tile else ())),
    )
