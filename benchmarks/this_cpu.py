"""The processor of a comparison, in a line: what int8 .onnx files keep and take depends on it."""

from __future__ import annotations

import platform

from mnv4_deploy.profiles.machine.cpu import may_saturate, read_cpu


def this_cpu() -> str:
    cpu = read_cpu()
    sums = (
        "without VNNI: onnxruntime adds pairs of int8 products in saturating int16"
        if may_saturate(platform.machine(), cpu.isa)
        else "onnxruntime adds int8 products exactly"
    )
    return f"Measured on {cpu.model} ({', '.join(cpu.isa)}), {sums}."
