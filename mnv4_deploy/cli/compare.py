"""The command compare: two files here, or files on devices. Parsing only."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

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
from mnv4_deploy.cli.profile import (
    Cpus,
    InputValue,
    MaxSeconds,
    Runs,
    Shape,
    Threads,
    Warmup,
    check_top,
    measure_request,
)
from mnv4_deploy.cli.talk import progress
from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.streams import complain


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(
        short_help="Run two files in turns: which is faster?",
        cls=GroupedCommand,
        epilog=epilog(
            "mnv4-deploy compare old.tflite new.tflite --fail-if-slower 1.05",
            {1: "B is slower than --fail-if-slower allows"},
        ),
    )(compare)


def compare(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="A B | FILE...",
            help="The file to compare with and the file in question; any number with --device.",
        ),
    ],
    threads: Threads = 1,
    warmup: Warmup = 5,
    runs: Runs = 400,
    max_seconds: MaxSeconds = 20.0,
    cpus: Cpus = None,
    shape: Shape = None,
    input_value: InputValue = None,
    top: Annotated[int, typer.Option(help="Modules to show, 0 for all.")] = 15,
    fail_if_slower: Annotated[
        float | None,
        typer.Option(help="Exit with 1 if B takes more than this many times A's time."),
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(
            help="Profile the files there: ssh://[user@]host[:port], adb[://serial], local; "
            "repeatable."
        ),
    ] = None,
    setup: Setup = False,
    device_python: DevicePython = "",
    device_folder: DeviceFolder = "",
    benchmark_model: BenchmarkModel = "",
    accuracy: Annotated[
        list[str] | None,
        typer.Option(
            help="Accuracy in percent for the Pareto plot, FILE=78.9; repeatable. "
            "[default: what the export measured]"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="With --device: folder for comparison.json and .csv, pareto.png, .svg."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier comparison in --out.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run two files in turns: is B faster than A, how sure is that, and which layers changed.

    With --device: latency, bounds and ranking of the layers of each file on each device.
    """
    from mnv4_deploy.pipelines import profile as profile_pipeline

    check_top(top)
    requests = [
        measure_request(f, threads, warmup, runs, max_seconds, cpus, shape, input_value)
        for f in files
    ]
    options = device_options(setup, device_python, device_folder, benchmark_model, device=device)
    if device:
        if fail_if_slower is not None:
            raise UnsupportedError("--fail-if-slower compares two files here: leave out --device.")
        _compare_devices(requests, device, options, accuracy or (), top, out, overwrite, as_json)
        return
    if out is not None or accuracy:
        raise UnsupportedError(
            "--out and --accuracy are for a comparison of devices: give --device."
        )
    if len(files) != 2:
        raise UnsupportedError(
            "A comparison here is of two files: give A and B, or --device to compare devices."
        )
    if fail_if_slower is not None and not fail_if_slower > 0:
        raise UnsupportedError(
            f"--fail-if-slower {fail_if_slower:g} makes no sense: give a ratio such as 1.05."
        )
    a, b = files
    result = profile_pipeline.compare(requests[0], requests[1], progress())
    from mnv4_deploy.terminal.compare import comparison_to_dict, print_comparison

    if as_json:
        print_json(comparison_to_dict(result))
    else:
        print_comparison(result, top=top)
    if fail_if_slower is not None and result.ratio.value > fail_if_slower:
        complain(
            f"{b} takes {result.ratio.value:.3f} times the time of {a}, more than the "
            f"{fail_if_slower:g} allowed."
        )
        raise typer.Exit(1)


def _compare_devices(
    requests: list[Any],
    devices: list[str],
    options: Any,
    accuracy: Iterable[str],
    top: int,
    out: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    from mnv4_deploy.pipelines import compare_devices

    result = compare_devices.compare_devices(
        compare_devices.DevicesRequest(
            files=tuple(requests),
            devices=tuple(devices),
            options=options,
            accuracy_percent=dict(map(_accuracy, accuracy)),
            out=out,
            overwrite=overwrite,
        ),
        progress(),
    )
    if as_json:
        print_json(compare_devices.to_dict(result))
        return
    from mnv4_deploy.terminal.devices import print_devices

    print_devices(result, top=top)
    if out is not None:
        sys.stdout.write(f"Comparison: {out / compare_devices.COMPARISON_JSON}\n")


def _accuracy(text: str) -> tuple[str, float]:
    path, _, percent = text.rpartition("=")
    try:
        return str(Path(path)), float(percent)
    except ValueError as error:
        raise UnsupportedError(
            f"--accuracy {text} is no FILE=PERCENT: give m.tflite=78.9."
        ) from error
