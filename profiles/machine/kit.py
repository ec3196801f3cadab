"""What one machine sends to another to measure its ceilings with.

A line "mnv4-deploy-kit <version> <SHA-256 of the rest>", a line of JSON, and the bytes of what it
lists: code of kernels, and model files. The code is all that is ever executed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path

from mnv4_deploy.errors import ToolchainError, UnsupportedError
from mnv4_deploy.profiles.machine.cpu import Cpu
from mnv4_deploy.profiles.machine.kernel_ir import Kernel
from mnv4_deploy.profiles.machine.kernel_plan import KernelPlan
from mnv4_deploy.profiles.machine.kernels import Kernels
from mnv4_deploy.profiles.machine.loaded import LoadedKernel, check_loadable
from mnv4_deploy.profiles.records.plain import from_plain, to_plain

_MAGIC = b"mnv4-deploy-kit 1 "


@dataclass(frozen=True)
class PeakKit:
    """Kernels as machine code for ``architecture`` with ``isa``, and models to run.

    ``plan`` holds the kernels without their IR (None: no kernels, for the reason in
    ``missing``), ``code`` their machine code by name; ``models`` are .onnx files by name.
    ``versions`` are those of what made them.
    """

    architecture: str
    isa: tuple[str, ...]
    plan: KernelPlan | None = None
    missing: str = ""
    code: Mapping[str, bytes] = field(default_factory=dict)
    models: Mapping[str, bytes] = field(default_factory=dict)
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

        def load(kernel: Kernel) -> LoadedKernel:
            return LoadedKernel(kernel, self.code[kernel.name])

        return Kernels(self.plan, load)


@dataclass(frozen=True)
class _Head:
    """The line of JSON: a kit with sizes in place of bytes, in the order they follow in."""

    architecture: str
    isa: tuple[str, ...]
    plan: KernelPlan | None
    missing: str
    versions: Mapping[str, str]
    code: tuple[tuple[str, int], ...]
    models: tuple[tuple[str, int], ...]


def kit_bytes(kit: PeakKit) -> bytes:
    """``kit`` as one file."""
    head = _Head(
        kit.architecture,
        kit.isa,
        kit.plan,
        kit.missing,
        kit.versions,
        tuple((name, len(blob)) for name, blob in kit.code.items()),
        tuple((name, len(blob)) for name, blob in kit.models.items()),
    )
    line = json.dumps(to_plain(head)).encode() + b"\n"
    rest = b"".join([line, *kit.code.values(), *kit.models.values()])
    return _MAGIC + hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest


def read_kit(path: str | Path) -> PeakKit:
    """The kit in the file ``path``; ToolchainError where there is none, or a damaged one."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ToolchainError(
            f"What ceilings are measured with cannot be read ({error}): run the command again."
        ) from error
    first, _, rest = content.partition(b"\n")
    if first != _MAGIC + hashlib.sha256(rest).hexdigest().encode():
        raise ToolchainError(
            f"What ceilings are measured with arrived damaged ({len(content)} bytes): run the"
            " command again."
        )
    line, _, blobs = rest.partition(b"\n")
    try:
        head = from_plain(_Head, json.loads(line))
    except ValueError as error:
        raise ToolchainError(
            f"What ceilings are measured with is of another version ({error}): use the same"
            " mnv4-deploy on both sides."
        ) from error
    cuts = list(accumulate((size for _, size in (*head.code, *head.models)), initial=0))
    found = [blobs[start:end] for start, end in pairwise(cuts)]
    code, models = found[: len(head.code)], found[len(head.code) :]
    return PeakKit(
        architecture=head.architecture,
        isa=head.isa,
        plan=head.plan,
        missing=head.missing,
        code={name: blob for (name, _), blob in zip(head.code, code, strict=True)},
        models={name: blob for (name, _), blob in zip(head.models, models, strict=True)},
        versions=head.versions,
    )
