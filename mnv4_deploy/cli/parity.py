"""The command parity. Parsing only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast, get_args

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
from mnv4_deploy.cli.profile import InputValue
from mnv4_deploy.cli.talk import progress
from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.streams import complain


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(
        short_help="Are outputs equal here and on a device?",
        cls=GroupedCommand,
        epilog=epilog(
            "mnv4-deploy parity model.tflite --device ssh://pi@raspberrypi",
            {3: "a device does not compute what this machine does"},
        ),
    )(parity)


def parity(
    file: Annotated[Path, typer.Argument(help="Any .tflite or .onnx file.")],
    device: Annotated[
        list[str],
        typer.Option(help="ssh://[user@]host[:port], adb[://serial], or local; repeatable."),
    ],
    data: Annotated[
        str,
        typer.Option(help="What goes in: bundled, random, a folder of images, or an .npz file."),
    ] = "bundled",
    images: Annotated[int, typer.Option(help="How many inputs.")] = 16,
    seed: Annotated[int, typer.Option(help="Of random inputs.")] = 0,
    shape: Annotated[
        list[str] | None,
        typer.Option(help="Shape of a dynamic input, 1x3x224x224 or NAME=1x3x224x224."),
    ] = None,
    input_value: InputValue = None,
    tolerance: Annotated[
        str,
        typer.Option(
            metavar="exact|reordered|approximated|float16",
            help="What floats may differ by: exact, reordered (1e-5 of the largest value), "
            "approximated (1e-3), float16 (1e-2). Integers must be equal.",
        ),
    ] = "reordered",
    top: Annotated[int, typer.Option(help="Layers to show, 0 for all.")] = 10,
    setup: Setup = False,
    device_python: DevicePython = "",
    device_folder: DeviceFolder = "",
    benchmark_model: BenchmarkModel = "",
    out: Annotated[
        Path | None, typer.Option(help="Folder for parity.json and parity-layers.csv.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier parity check in --out.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run the same tensors here and there: are the outputs equal, and if not, since which layer?

    Exits with 3 where they differ by more than --tolerance.
    """
    from mnv4_deploy.cli.profile import parse_shape
    from mnv4_deploy.parity.records import ParityRequest, Verdict
    from mnv4_deploy.pipelines.parity import parity as check
    from mnv4_deploy.profiles.graph.given_inputs import read_given

    allowed = get_args(Verdict)[:-1]
    if tolerance not in allowed:
        raise UnsupportedError(f"There is no --tolerance {tolerance}: give {', '.join(allowed)}.")
    if top < 0:
        raise UnsupportedError(f"--top {top} makes no sense: give 0 for all layers.")
    result = check(
        ParityRequest(
            path=str(file),
            devices=tuple(device),
            options=device_options(
                setup, device_python, device_folder, benchmark_model, device=device
            ),
            data=data,
            images=images,
            seed=seed,
            shapes=dict(parse_shape(text) for text in shape or ()),
            inputs=read_given(input_value or ()),
            tolerance=cast("Any", tolerance),
            out=out,
            overwrite=overwrite,
        ),
        progress(),
    )
    from mnv4_deploy.terminal.parity import parity_to_dict, print_parity

    if as_json:
        print_json(parity_to_dict(result))
    else:
        print_parity(result, top=top)
    if result.failed:
        complain("a device does not compute what this machine does.")
        raise typer.Exit(3)
