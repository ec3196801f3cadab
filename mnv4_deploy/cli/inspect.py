"""The command inspect. Parsing only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mnv4_deploy.cli.help import GroupedCommand, epilog
from mnv4_deploy.cli.json_output import Json, print_json


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(
        short_help="Show what a file is and what runs in int8.",
        cls=GroupedCommand,
        epilog=epilog("mnv4-deploy inspect model.tflite"),
    )(inspect)


def inspect(
    file: Annotated[Path, typer.Argument(help="Any .tflite or .onnx file.")],
    signature: Annotated[
        str,
        typer.Option(help="Signature of a .tflite file to list.  [default: the first]"),
    ] = "",
    as_json: Json = False,
) -> None:
    """Show what a model file is: types, operators, what runs in int8, what XNNPACK takes."""
    import dataclasses

    from mnv4_deploy.profiles.inspection.inspect import inspect_file

    facts = inspect_file(file, signature=signature)
    if as_json:
        print_json(
            {
                "schema_version": 1,
                **dataclasses.asdict(facts),
                "op_histogram": facts.histogram,
                "compute_histogram": facts.compute_histogram,
            }
        )
        return
    from mnv4_deploy.terminal.export import print_facts

    print_facts(facts)
