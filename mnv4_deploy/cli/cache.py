"""The command cache. Parsing only."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from mnv4_deploy.cli.help import GroupedCommand, epilog
from mnv4_deploy.cli.json_output import Json, print_json


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(
        short_help="List what is kept on this machine.",
        cls=GroupedCommand,
        epilog=epilog("mnv4-deploy cache --clear drift"),
    )(cache)


def cache(
    clear: Annotated[
        str | None,
        typer.Option(metavar="ceilings|drift|device", help="Remove what we wrote of this one."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List what is kept on this machine between commands, by us and by libraries, and its size."""
    from mnv4_deploy.pipelines.caches import clear_cache, list_caches

    caches = list_caches() if clear is None else (clear_cache(clear),)
    if as_json:
        content = "caches" if clear is None else "cleared"
        print_json({"schema_version": 1, content: [dataclasses.asdict(one) for one in caches]})
        return
    from mnv4_deploy.terminal.caches import print_caches, print_cleared

    if clear is None:
        print_caches(caches)
    else:
        print_cleared(caches[0])
