"""Options of every command that can work on a device. Parsing only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.profiles.records.device import DeviceOptions

DeviceText = Annotated[
    str,
    typer.Option(
        "--device",
        help="Work on a device: ssh://[user@]host[:port], adb://[serial], or local.  "
        "[default: this machine]",
    ),
]
Setup = Annotated[
    bool,
    typer.Option(
        "--setup", help="Make a private virtual environment with the runtimes on the device."
    ),
]
DevicePython = Annotated[
    str,
    typer.Option("--device-python", help="Python of the device to use.  [default: its python3]"),
]
DeviceFolder = Annotated[
    str,
    typer.Option(
        "--device-folder",
        help="Folder of the device for the files of a run, which are removed at its end.  "
        "[default: its temporary folder]",
    ),
]
BenchmarkModel = Annotated[
    str,
    typer.Option(
        "--benchmark-model",
        help="LiteRT's benchmark_model for an Android device: a file here, or a path there.",
    ),
]


def device_options(
    setup: bool,
    python: str,
    folder: str,
    benchmark_model: str,
    *,
    device: str | Sequence[str] | None,
) -> DeviceOptions:
    """What was said about ``device``, which is what ``--device`` gave, empty for nothing.

    Raises UnsupportedError where something was said about a device that was not given.
    """
    said = {
        "--setup": setup,
        "--device-python": python,
        "--device-folder": folder,
        "--benchmark-model": benchmark_model,
    }
    given = [option for option, value in said.items() if value]
    if given and not device:
        raise UnsupportedError(
            f"{' and '.join(given)} {'are' if len(given) > 1 else 'is'} about a device: say "
            "which with --device, such as ssh://pi."
        )
    return DeviceOptions(setup, python, folder, benchmark_model)
