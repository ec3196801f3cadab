"""The machines of ``machines.toml``: what was published about devices that are not here."""

from __future__ import annotations

import difflib
import tomllib
from functools import cache
from pathlib import Path

from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.profiles.records.machine import PublishedMachine

_TABLE = Path(__file__).parent / "machines.toml"


@cache
def published_machines() -> tuple[PublishedMachine, ...]:
    """All of them, in the file's order."""
    entries = tomllib.loads(_TABLE.read_text(encoding="utf-8"))
    return tuple(PublishedMachine(name=name, **entry) for name, entry in entries.items())


def published(name: str) -> PublishedMachine:
    """The machine called ``name``, in any case; UnsupportedError naming the nearest otherwise."""
    by_name = {machine.name: machine for machine in published_machines()}
    wanted = name.strip().lower().replace(" ", "-").replace("_", "-")
    if wanted in by_name:
        return by_name[wanted]
    nearest = difflib.get_close_matches(wanted, by_name, n=1, cutoff=0.0)[0]
    raise UnsupportedError(
        f"There is no published machine {name!r}: the nearest is {nearest}; all are"
        f" {', '.join(by_name)}."
    )
