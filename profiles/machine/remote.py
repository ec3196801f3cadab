"""Ceilings of a device that has nothing but NumPy and a runtime.

This machine compiles the kernels for the device's processor and writes the models
(:func:`pack_bytes`); the device measures with them (``ceilings.measure_machine``).
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mnv4_deploy.errors import DeployError
from mnv4_deploy.profiles.machine.cpu import INSTRUCTION_SETS
from mnv4_deploy.profiles.machine.kernels.loaded import normal_architecture
from mnv4_deploy.profiles.machine.kit import PeakKit, kit_bytes, packed

if TYPE_CHECKING:
    from mnv4_deploy.profiles.records.device import DeviceFacts

_ONNXRUNTIME = "onnxruntime"


def pack_bytes(facts: DeviceFacts) -> bytes:
    """Here: what the device measures its ceilings with, as one file of a few MB at most.

    Uses ``architecture``, ``isa`` and ``runtimes`` of ``facts``. A device that cannot be served
    gets a kit that holds less, and says why in the ceilings' notes.
    """
    return kit_bytes(pack(facts.architecture, facts.isa, onnx=_ONNXRUNTIME in facts.runtimes))


def pack(architecture: str, isa: Sequence[str], *, onnx: bool = True) -> PeakKit:
    """The kernels for a processor and, with ``onnx``, models for onnxruntime.

    Instruction sets of other architectures are left out: an emulator may tell those of the
    machine it runs on, and LLVM ends the process for code that it cannot make.
    """
    normal = normal_architecture(architecture)
    kit = PeakKit(normal, tuple(name for name in isa if name in INSTRUCTION_SETS.get(normal, ())))
    try:
        kit = _with_kernels(kit)
    except DeployError as error:
        kit = replace(kit, missing=str(error))
    return _with_models(kit) if onnx else kit


def _with_kernels(kit: PeakKit) -> PeakKit:
    from mnv4_deploy.profiles.machine.kernels.compiled import machine_code
    from mnv4_deploy.profiles.machine.kernels.plan import plan_for

    plan = plan_for(kit.isa)
    code = {k.name: machine_code(k, kit.architecture, kit.isa) for k in plan.kernels}
    sent = replace(
        plan,
        clock=replace(plan.clock, ir=""),
        floats=replace(plan.floats, ir=""),
        read=replace(plan.read, ir=""),
        add=replace(plan.add, ir=""),
        integers=tuple(replace(kernel, ir="") for kernel in plan.integers),
    )
    return replace(kit, plan=sent, code=packed(code), versions=_with_version(kit, "llvmlite"))


def _with_models(kit: PeakKit) -> PeakKit:
    try:
        import onnx  # noqa: F401
    except ImportError:
        return kit
    from mnv4_deploy.profiles.machine.peaks import models_to_send

    return replace(kit, models=packed(models_to_send()), versions=_with_version(kit, "onnx"))


def _with_version(kit: PeakKit, package: str) -> dict[str, str]:
    return {**kit.versions, package: importlib.metadata.version(package)}
