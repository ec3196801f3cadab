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
    Shape,
    Threads,
    Warmup,
    check_top,
    measure_request,
)
from mnv4_deploy.cli.talk import progress
from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.streams import complain

_EXIT_CODES = {"failed": 1, "inconclusive": 3}


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(
        short_help="Run two files in turns: which is faster?",
        cls=GroupedCommand,
        epilog=epilog(
            "mnv4-deploy compare old.tflite new.tflite --fail-if-slower 1.05",
            {
                1: "B is slower than --fail-if-slower allows",
                3: "inconclusive: the machine is too noisy to tell",
            },
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
    runs: Annotated[
        int | None,
        typer.Option(
            help="Profiled runs, and as many without the profiler.  [default: 2000, with "
            "--device 400]"
        ),
    ] = None,
    max_seconds: MaxSeconds = 20.0,
    cpus: Cpus = None,
    shape: Shape = None,
    input_value: InputValue = None,
    top: Annotated[int, typer.Option(help="Modules to show, 0 for all.")] = 15,
    fail_if_slower: Annotated[
        float | None,
        typer.Option(
            help="Exit with 1 if B surely takes more than this many times A's time, with 3 if "
            "that cannot be told."
        ),
    ] = None,
    max_total_seconds: Annotated[
        float | None,
        typer.Option(
            help="With --fail-if-slower: measure on, for up to this time, until the verdict is "
            "sure.  [default: 4 times --max-seconds]"
        ),
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
        typer.Option(
            help="Folder for comparison.json, .csv, .html, .md and comparison-junit.xml; with "
            "--device for comparison.json and .csv, pareto.png, .svg."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier comparison in --out.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run two files in turns: is B faster than A, how sure is that, and which layers changed.

    With --device: latency, bounds and ranking of the layers of each file on each device.
    """
    from mnv4_deploy.pipelines.compare import RUNS, RUNS_ON_DEVICE

    check_top(top)
    if runs is None:
        runs = RUNS_ON_DEVICE if device else RUNS
    requests = [
        measure_request(f, threads, warmup, runs, max_seconds, cpus, shape, input_value)
        for f in files
    ]
    options = device_options(setup, device_python, device_folder, benchmark_model, device=device)
    if device:
        if fail_if_slower is not None or max_total_seconds is not None:
            raise UnsupportedError("--fail-if-slower compares two files here: leave out --device.")
        _compare_devices(requests, device, options, accuracy or (), top, out, overwrite, as_json)
        return
    if accuracy:
        raise UnsupportedError("--accuracy is for a comparison of devices: give --device.")
    if max_total_seconds is not None and fail_if_slower is None:
        raise UnsupportedError("--max-total-seconds is for --fail-if-slower: give that, too.")
    if len(files) != 2:
        raise UnsupportedError(
            "A comparison here is of two files: give A and B, or --device to compare devices."
        )
    a, b = requests
    _compare_files(a, b, fail_if_slower, max_total_seconds, top, out, overwrite, as_json)


def _compare_files(
    a: Any,
    b: Any,
    limit: float | None,
    max_total_seconds: float | None,
    top: int,
    out: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    from mnv4_deploy.pipelines import compare as pipeline
    from mnv4_deploy.profiles.roofline.verdict import outcome_of, outcome_sentence

    result = pipeline.compare(
        pipeline.CompareRequest(
            a,
            b,
            fail_if_slower=limit,
            max_total_seconds=max_total_seconds,
            out=out,
            overwrite=overwrite,
        ),
        progress(),
    )
    if as_json:
        from mnv4_deploy.reports.comparison.comparison_json import comparison_to_dict

        print_json(comparison_to_dict(result, limit))
    else:
        from mnv4_deploy.terminal.compare import print_comparison

        print_comparison(result, limit=limit, top=top)
        if out is not None:
            sys.stdout.write(f"Report: {out / pipeline.REPORT}\n")
    if limit is None:
        return
    outcome = outcome_of(result.ratio, limit)
    if outcome != "passed":
        complain(outcome_sentence(result, limit))
        raise typer.Exit(_EXIT_CODES[outcome])


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
