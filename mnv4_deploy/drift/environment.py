"""What decides a run's numbers besides its files: installed versions and the processor."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Iterable
from pathlib import Path

from mnv4_deploy import drift, images, models, sessions, tasks
from mnv4_deploy.profiles.machine.cpu import read_cpu
from mnv4_deploy.sessions.records import ModelKind

_RUNTIMES = {"onnx": "onnxruntime", "tflite": "ai-edge-litert", "torch": "torch"}
# What runs images and makes figures of them.
_SOURCES = (drift, images, models, sessions, tasks)


def versions(kinds: Iterable[ModelKind] = ()) -> dict[str, str]:
    """What must be the same wherever ``kinds`` are compared; "missing" where it is absent."""
    packages = ("numpy", "pillow", *sorted({_RUNTIMES[kind] for kind in kinds}))
    return {
        "mnv4-deploy": f"{_version('mnv4-deploy')} (source {_source_hash()})",
        # Not 3.11.4: what travels between processes depends on the minor version alone.
        "python": ".".join(platform.python_version_tuple()[:2]),
        **{package: _version(package) for package in packages},
    }


def processor() -> str:
    """The kind of processor: runtimes choose their kernels, and so their rounding, by it."""
    cpu = read_cpu()
    return f"{platform.machine()} {cpu.model} {' '.join(cpu.isa)}".strip()


def differences(here: dict[str, str], there: dict[str, str]) -> str:
    """ "numpy 2.1 (here 2.4)" for each that differs; "" if none does."""
    return ", ".join(
        f"{name} {there.get(name, 'missing')} (here {version})"
        for name, version in here.items()
        if there.get(name) != version
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _source_hash() -> str:
    """Of what runs images: two checkouts can have the same version."""
    digest = hashlib.sha256()
    for package in _SOURCES:
        folder = Path(package.__path__[0])
        for path in sorted(folder.rglob("*.py")):
            name = f"{package.__name__} {path.relative_to(folder).as_posix()}"
            digest.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:8]
