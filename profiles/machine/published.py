"""The machines of ``machines.toml``: what was published about devices that are not here."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.profiles.records.machine import PublishedMachine

_TABLE = Path(__file__).parent / "machines.toml"


@cache
def published_machines() -> tuple[PublishedMachine, ...]:
    """All of them, in the file's order."""
    entries = tomllib.loads(_TABLE.read_text(encoding="utf-8"))
    return tuple(_machine(name, **entry) for name, entry in entries.items())


def _machine(
    name: str, *, took_of_predicted: Sequence[float] | None = None, **entry: Any
) -> PublishedMachine:
    took = None if took_of_predicted is None else (took_of_predicted[0], took_of_predicted[1])
    return PublishedMachine(name=name, took_of_predicted=took, **entry)


def published(name: str) -> PublishedMachine:
    """The machine called ``name``, in any case, or the only one whose name starts so.

    Raises UnsupportedError naming the nearest otherwise.
    """
    by_name = {machine.name: machine for machine in published_machines()}
    wanted = name.strip().lower().replace(" ", "-").replace("_", "-")
    if wanted in by_name:
        return by_name[wanted]
    begun = [known for known in by_name if wanted and known.startswith(wanted)]
    if len(begun) == 1:
        return by_name[begun[0]]
    nearest = difflib.get_close_matches(wanted, by_name, n=1, cutoff=0.0)[0]
    raise UnsupportedError(
        f"There is no published machine {name!r}: the nearest is {nearest}; all are"
        f" {', '.join(by_name)}."
    )
