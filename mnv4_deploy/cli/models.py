"""The command models. Parsing only."""

from __future__ import annotations

from typing import Annotated

import typer

from mnv4_deploy.cli.help import GroupedCommand, epilog
from mnv4_deploy.cli.json_output import Json, print_json


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(
        short_help="List the models, their size and their weights.",
        cls=GroupedCommand,
        epilog=epilog("mnv4-deploy models hybrid-m"),
    )(models)


def models(
    model: Annotated[
        str | None, typer.Argument(help="Show this one in full.  [default: list all]")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the models: parameters, MACs, input, weights, and the files and targets that work."""
    from mnv4_deploy.profiles.records.plain import to_plain
    from mnv4_deploy.support.catalogue import SCHEMA_VERSION, find_model, list_models

    entries = list_models() if model is None else (find_model(model),)
    if as_json:
        print_json({"schema_version": SCHEMA_VERSION, "models": to_plain(entries)})
        return
    from mnv4_deploy.terminal.models import print_model, print_models

    if model is None:
        print_models(entries)
    else:
        print_model(entries[0])
