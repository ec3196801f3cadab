"""The command device. Parsing only."""

from __future__ import annotations

import dataclasses
import sys
from typing import Annotated

import typer

from mnv4_deploy.cli.device_options import (
    BenchmarkModel,
    DeviceFolder,
    DevicePython,
    Setup,
    device_options,
)
from mnv4_deploy.cli.help import GroupedCommand, epilog
from mnv4_deploy.cli.json_output import Json, print_json
from mnv4_deploy.cli.talk import progress
from mnv4_deploy.errors import UnsupportedError


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(
        short_help="Show what a device is and how it is doing.",
        cls=GroupedCommand,
        epilog=epilog("mnv4-deploy device ssh://pi@raspberrypi"),
    )(device)


def device(
    where: Annotated[str, typer.Argument(help="ssh://[user@]host[:port], adb[://serial], local.")],
    setup: Setup = False,
    remove_setup: Annotated[
        bool, typer.Option("--remove-setup", help="Remove what --setup made there.")
    ] = False,
    device_python: DevicePython = "",
    device_folder: DeviceFolder = "",
    benchmark_model: BenchmarkModel = "",
    as_json: Json = False,
) -> None:
    """Show what a device is and how it is doing: processor, runtimes, clocks, heat."""
    from mnv4_deploy.pipelines import device as pipeline

    if setup and remove_setup:
        raise UnsupportedError("--setup and --remove-setup contradict each other: give one.")
    options = device_options(setup, device_python, device_folder, benchmark_model, device=where)
    if remove_setup:
        removed = pipeline.remove_setup(where, options, progress())
        sys.stdout.write("Removed.\n" if removed else "There was nothing to remove.\n")
        return
    found = pipeline.inspect_device(where, options, progress())
    if as_json:
        print_json({"schema_version": 1, **dataclasses.asdict(found)})
        return
    from mnv4_deploy.terminal.devices import print_device

    print_device(where, found.facts, found.state)
