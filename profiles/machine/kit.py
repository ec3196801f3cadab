"""What one machine sends to another to measure its ceilings with.

A line "mnv4-deploy-kit <version> <SHA-256 of the rest>", and JSON with the code of kernels and
model files in base64. The code is all that is ever executed.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mnv4_deploy.errors import ToolchainError, UnsupportedError
from mnv4_deploy.profiles.machine.cpu import Cpu
from mnv4_deploy.profiles.machine.independent import Kernels
from mnv4_deploy.profiles.machine.kernels.loaded import LoadedKernel, check_loadable
from mnv4_deploy.profiles.machine.kernels.loop_ir import Kernel
from mnv4_deploy.profiles.machine.kernels.plan import KernelPlan
from mnv4_deploy.profiles.records.plain import from_plain, to_plain

_MAGIC = b"mnv4-deploy-kit 2 "


@dataclass(frozen=True)
class PeakKit:
    """Kernels as machine code for ``architecture`` with ``isa``, and models to run.

    ``plan`` holds the kernels without their IR (None: no kernels, for the reason in
    ``missing``), ``code`` their machine code by name; ``models`` are .onnx files by name, both
    :func:`packed`. ``versions`` are those of what made them.
    """

    architecture: str
    isa: tuple[str, ...]
    plan: KernelPlan | None = None
    missing: str = ""
    code: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def kernels_for(self, cpu: Cpu) -> Kernels:
        """The kernels, to run on this machine, which is ``cpu``.

        Raises UnsupportedError where they do not run here or were not sent.
        """
        if self.plan is None:
            raise UnsupportedError(self.missing or "No kernels were sent.")
        check_loadable(self.architecture)
        if strange := sorted(set(self.isa) - set(cpu.isa)):
            raise UnsupportedError(f"The kernels need {', '.join(strange)}, which is not here.")

        code = unpacked(self.code)

        def load(kernel: Kernel) -> LoadedKernel:
            return LoadedKernel(kernel, code[kernel.name])

        return Kernels(self.plan, load)


def kit_bytes(kit: PeakKit) -> bytes:
    """``kit`` as one file."""
    text = json.dumps(to_plain(kit)).encode()
    return _MAGIC + hashlib.sha256(text).hexdigest().encode() + b"\n" + text


def read_kit(path: str | Path) -> PeakKit:
    """The kit in the file ``path``; ToolchainError where there is none, or a damaged one."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ToolchainError(
            f"What ceilings are measured with cannot be read ({error}): run the command again."
        ) from error
    first, _, text = content.partition(b"\n")
    if first != _MAGIC + hashlib.sha256(text).hexdigest().encode():
        raise ToolchainError(
            f"What ceilings are measured with arrived damaged ({len(content)} bytes): run the"
            " command again."
        )
    try:
        return from_plain(PeakKit, json.loads(text))
    except ValueError as error:
        raise ToolchainError(
            f"What ceilings are measured with is of another version ({error}): use the same"
            " mnv4-deploy on both sides."
        ) from error


def packed(blobs: Mapping[str, bytes]) -> dict[str, str]:
    """``blobs`` as a kit holds them."""
    return {name: b64encode(blob).decode() for name, blob in blobs.items()}


def unpacked(texts: Mapping[str, str]) -> dict[str, bytes]:
    """What :func:`packed` was given."""
    return {name: b64decode(text) for name, text in texts.items()}
