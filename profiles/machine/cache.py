"""Measured ceilings in the user's cache folder, one file for each machine and its runtimes.

A file that is damaged, or of another schema, counts as not there: it is measured again.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, overload

from mnv4_deploy.errors import OutputError
from mnv4_deploy.profiles.files.regular import read_regular
from mnv4_deploy.profiles.files.whole import replace_whole
from mnv4_deploy.profiles.machine import ceilings as measuring
from mnv4_deploy.profiles.machine.cpu import fingerprint
from mnv4_deploy.profiles.records.machine import Machine
from mnv4_deploy.profiles.records.plain import from_plain, to_plain

SCHEMA_VERSION = 1
_FOLDER_VARIABLE = "MNV4_DEPLOY_CACHE"
_NAME = "mnv4-deploy"
_FILE = re.compile(r"machine-[0-9a-f]{16}\.json")
_MAX_BYTES = 16 << 20
_DAMAGED = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)

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


def local_key() -> str:
    """What ceilings of this machine depend on: processor and runtime versions installed now."""
    return json.dumps([fingerprint(), measuring.versions()], sort_keys=True)


def cache_path(key: str | None = None) -> Path:
    """The file of the machine ``key`` (None: this one)."""
    text = local_key() if key is None else key
    return cache_folder() / f"machine-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def kept_machines() -> Iterator[Path]:
    """The files of machines in the cache folder, of any schema, that we wrote."""
    for path in cache_folder().glob("machine-*.json"):
        try:
            content = json.loads(read_regular(path, max_bytes=_MAX_BYTES))
            if _FILE.fullmatch(path.name) and {"schema_version", "machine"} <= content.keys():
                yield path
        except _DAMAGED:
            continue


def load_machine(key: str | None = None) -> Machine | None:
    """The cached ceilings of ``key`` (None: this machine); None where there are none of use."""
    try:
        content = json.loads(read_regular(cache_path(key), max_bytes=_MAX_BYTES))
        if content["schema_version"] != SCHEMA_VERSION:
            return None
        return checked(from_plain(Machine, content["machine"]))
    except _DAMAGED:
        return None


def save_machine(machine: Machine, key: str | None = None) -> Path:
    """Write ``machine`` for later runs under ``key`` (None: this one), or nothing; the file.

    Raises OutputError where the folder cannot be written.
    """
    path = cache_path(key)
    text = json.dumps({"schema_version": SCHEMA_VERSION, "machine": to_plain(machine)}, indent=1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_whole(path, text.encode())
    except OSError as error:
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
    note: Say | None = None,
) -> Machine: ...
@overload
def machine_for(
    threads: int | Sequence[int],
    *,
    measure: bool | Literal["if-missing"],
    note: Say | None = None,
) -> Machine | None: ...
def machine_for(
    threads: int | Sequence[int],
    *,
    measure: bool | Literal["if-missing"] = "if-missing",
    note: Say | None = None,
) -> Machine | None:
    """This machine with ceilings for ``threads``, and for whatever else was measured before.

    ``measure`` and ``note`` as in :func:`kept_or_measured`. Raises as ``measure_machine`` does.
    """

    def measured(wanted: Sequence[int]) -> Machine:
        return measuring.measure_machine(wanted)

    return kept_or_measured(None, threads, measured, measure=measure, note=note)


def kept_or_measured(
    key: str | None,
    threads: int | Sequence[int],
    measured: Callable[[Sequence[int]], Machine],
    *,
    measure: bool | Literal["if-missing"],
    note: Say | None,
) -> Machine | None:
    """The machine ``key`` (None: this one) with ceilings for ``threads``, and those it has kept.

    ``measure`` True has all ``measured`` anew, "if-missing" only what the cache lacks, False
    nothing: the result is then None where the cache lacks any of it. New ceilings are cached; a
    folder that cannot be written is a ``note``. Raises as ``measured`` does.
    """
    cached = load_machine(key)
    wanted = _counts(threads) if measure is True else _missing(cached, threads)
    if not wanted:
        return cached
    if measure is False:
        return None
    machine = merged(cached, measured(wanted))
    try:
        save_machine(machine, key)
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


def checked(machine: Machine) -> Machine:
    """``machine`` itself; ValueError where it has a rate that no time can be divided by.

    It may come from a damaged file or from a device: times must not become infinite or negative.
    """
    rates = [*machine.limits_macs_per_s.values()]
    for ceilings in machine.ceilings:
        rates += [rate for peaks in ceilings.peak_macs_per_s.values() for rate in peaks.values()]
        rates += [level.bytes_per_s for level in ceilings.memory]
        rates += [ceilings.spin_us, *([] if ceilings.clock_ghz is None else [ceilings.clock_ghz])]
        if not all(0 <= us < math.inf for us in ceilings.op_overhead_us.values()):
            raise ValueError("an operator's overhead is no time")
    if not all(0 < rate < math.inf for rate in rates):
        raise ValueError("a ceiling is no rate")
    return machine
