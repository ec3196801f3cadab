"""Measured ceilings in the user's cache folder, one file for each processor and its runtimes.

A file that is damaged, or of another schema, counts as not there: it is measured again.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, overload

from mnv4_deploy.errors import OutputError
from mnv4_deploy.machine_records import Ceilings, Machine, MemoryLevel
from mnv4_deploy.profiles.machine import ceilings as measuring
from mnv4_deploy.profiles.machine.cpu import fingerprint

SCHEMA_VERSION = 1
_FOLDER_VARIABLE = "MNV4_DEPLOY_CACHE"
_NAME = "mnv4-deploy"

Say = Callable[[str], None]


def cache_folder() -> Path:
    """MNV4_DEPLOY_CACHE, or "mnv4-deploy" in the system's folder for caches."""
    if chosen := os.environ.get(_FOLDER_VARIABLE):
        return Path(chosen).expanduser()
    if platform.system() == "Windows":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif platform.system() == "Darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / _NAME


def cache_path() -> Path:
    """The file of this processor with the runtime versions installed now."""
    key = json.dumps([fingerprint(), measuring.versions()], sort_keys=True)
    return cache_folder() / f"machine-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def load_machine() -> Machine | None:
    """The cached ceilings of this machine; None where there are none that can be used."""
    try:
        content = json.loads(cache_path().read_text(encoding="utf-8"))
        if content["schema_version"] != SCHEMA_VERSION:
            return None
        return _machine_from(content["machine"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def save_machine(machine: Machine) -> Path:
    """Write ``machine`` for later runs, whole or not at all; the file.

    Raises OutputError where the folder cannot be written.
    """
    path = cache_path()
    text = json.dumps({"schema_version": SCHEMA_VERSION, "machine": asdict(machine)}, indent=1)
    unfinished: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".machine-", dir=path.parent)
        unfinished = Path(name)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        unfinished.replace(path)
    except OSError as error:
        if unfinished is not None:
            with suppress(OSError):
                unfinished.unlink()
        raise OutputError(
            f"The ceilings cannot be kept in {path.parent} ({error.strerror or error}): set"
            f" {_FOLDER_VARIABLE} to a folder that can be written."
        ) from error
    return path


def missing_ceilings(threads: int | Sequence[int]) -> tuple[int, ...]:
    """The thread counts of ``threads`` that the cache has no ceilings for."""
    return _missing(load_machine(), threads)


@overload
def machine_for(
    threads: int | Sequence[int],
    *,
    measure: Literal[True, "if-missing"] = "if-missing",
    progress: Say | None = None,
    note: Say | None = None,
) -> Machine: ...
@overload
def machine_for(
    threads: int | Sequence[int],
    *,
    measure: bool | Literal["if-missing"],
    progress: Say | None = None,
    note: Say | None = None,
) -> Machine | None: ...
def machine_for(
    threads: int | Sequence[int],
    *,
    measure: bool | Literal["if-missing"] = "if-missing",
    progress: Say | None = None,
    note: Say | None = None,
) -> Machine | None:
    """This machine with ceilings for ``threads``, and for whatever else was measured before.

    ``measure`` True measures anew, "if-missing" only what the cache lacks, False nothing: the
    result is then None where the cache lacks any of it. New ceilings are cached; a folder that
    cannot be written is a ``note``. Raises as ``measure_ceilings`` does.
    """
    cached = load_machine()
    wanted = _counts(threads) if measure is True else _missing(cached, threads)
    if not wanted:
        return cached
    if measure is False:
        return None
    machine = merged(cached, measuring.measure_machine(wanted, progress))
    try:
        save_machine(machine)
    except OutputError as error:
        if note:
            note(str(error))
    return machine


def merged(old: Machine | None, new: Machine) -> Machine:
    """``new`` with the ceilings of ``old`` for other numbers of threads."""
    if old is None:
        return new
    kept = [c for c in old.ceilings if new.with_threads(c.threads) is None]
    limits = {
        compute: max(new.limits_macs_per_s.get(compute, 0.0), limit)
        for compute, limit in (*old.limits_macs_per_s.items(), *new.limits_macs_per_s.items())
    }
    ceilings = tuple(sorted((*kept, *new.ceilings), key=lambda c: c.threads))
    return replace(new, ceilings=ceilings, limits_macs_per_s=limits)


def _counts(threads: int | Sequence[int]) -> tuple[int, ...]:
    return (threads,) if isinstance(threads, int) else tuple(dict.fromkeys(threads))


def _missing(machine: Machine | None, threads: int | Sequence[int]) -> tuple[int, ...]:
    return tuple(n for n in _counts(threads) if machine is None or machine.with_threads(n) is None)


def _machine_from(content: dict[str, Any]) -> Machine:
    """Raises KeyError, TypeError or ValueError for content that is not a machine's."""
    return Machine(
        cpu=str(content["cpu"]),
        cores=int(content["cores"]),
        isa=tuple(map(str, content["isa"])),
        caches={str(k): int(v) for k, v in content["caches"].items()},
        measured_on=str(content["measured_on"]),
        method=str(content["method"]),
        versions={str(k): str(v) for k, v in content["versions"].items()},
        ceilings=tuple(map(_ceilings_from, content["ceilings"])),
        limits_macs_per_s=_rates(content["limits_macs_per_s"]),
    )


def _ceilings_from(content: dict[str, Any]) -> Ceilings:
    clock = content["clock_ghz"]
    return Ceilings(
        threads=int(content["threads"]),
        peak_macs_per_s={str(k): _rates(v) for k, v in content["peak_macs_per_s"].items()},
        memory=tuple(
            MemoryLevel(
                str(level["name"]),
                None if level["capacity_bytes"] is None else int(level["capacity_bytes"]),
                _positive(level["bytes_per_s"]),
            )
            for level in content["memory"]
        ),
        op_overhead_us={str(k): float(v) for k, v in content["op_overhead_us"].items()},
        spin_us=_positive(content["spin_us"]),
        clock_ghz=None if clock is None else _positive(clock),
    )


def _rates(content: dict[str, Any]) -> dict[str, float]:
    return {str(name): _positive(rate) for name, rate in content.items()}


def _positive(value: Any) -> float:
    """A rate to divide by: a damaged one must not become an infinite or negative time."""
    number = float(value)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{value} is no rate")
    return number
