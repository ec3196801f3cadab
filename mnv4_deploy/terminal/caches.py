"""What is kept on this machine, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from mnv4_deploy.pipelines.caches import Cache
from mnv4_deploy.terminal.profile import console_for
from mnv4_deploy.terminal.tables import Column, print_table

_MEGA = 1e6


def print_caches(caches: Sequence[Cache], console: Console | None = None) -> None:
    console = console or console_for()
    columns = (Column.text("cache"), Column("MB"), Column.text("where"), Column.text("what"))
    rows = [
        (cache.name, f"{cache.size_bytes / _MEGA:.2f}", str(cache.folder), cache.content)
        for cache in caches
    ]
    print_table(console, columns, rows)
    for cache in caches:
        if cache.advice and cache.paths:
            console.print(
                f"{cache.name}: not ours alone; {cache.advice}",
                markup=False,
                highlight=False,
            )


def print_cleared(cache: Cache, console: Console | None = None) -> None:
    console = console or console_for()
    said = f"Removed {cache.size_bytes / _MEGA:.2f} MB from {cache.folder}."
    console.print(
        said if cache.paths else f"There was nothing in {cache.folder} to remove.",
        markup=False,
        highlight=False,
    )
