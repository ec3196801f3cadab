"""The commands around the profiler: profile, compare, machine, roofline. Parsing only."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from mnv4_deploy.cli.device_options import (
    BenchmarkModel,
    DeviceFolder,
    DevicePython,
    DeviceText,
    Setup,
    device_options,
)
from mnv4_deploy.cli.help import GroupedCommand, epilog
from mnv4_deploy.cli.json_output import Json, print_json
from mnv4_deploy.cli.talk import progress
from mnv4_deploy.errors import UnsupportedError

if TYPE_CHECKING:
    from mnv4_deploy.profiles.roofline.prediction import FilePrediction

File = Annotated[Path, typer.Argument(help="Any .tflite or .onnx file.")]
Threads = Annotated[int, typer.Option(help="Threads of the runtime.")]
Warmup = Annotated[int, typer.Option(help="Runs before the first that counts.")]
Runs = Annotated[int, typer.Option(help="Profiled runs, and as many without the profiler.")]
Statistics = Annotated[
    str,
    typer.Option(
        metavar="min|p10|p50|mean",
        help="What stands for many runs; min is undisturbed and repeats best.",
    ),
]
MaxSeconds = Annotated[
    float, typer.Option(help="Stop measuring after this time, whatever --runs says.")
]
Cpus = Annotated[
    str | None, typer.Option(help="CPUs to run on, such as 0 or 0,2-3.  [default: any]")
]
Shape = Annotated[
    list[str] | None,
    typer.Option(help="Shape of a dynamic input, 1x3x224x224 or NAME=1x3x224x224; repeatable."),
]
InputValue = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        help="Value of an input: NAME=16000, NAME=1,2,3, NAME=file.npy, NAME=file.npz or file.npz "
        "with an array for each; repeatable.  [default: made up]",
    ),
]
Signature = Annotated[
    str, typer.Option(help="Signature of a .tflite file to run.  [default: the first]")
]
_SHAPE = re.compile(r"(?:(?P<name>.*)=)?(?P<dims>\d+(?:[x,]\d+)*)", re.DOTALL)
_CPU_RANGE = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?")


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command(
        short_help="Show where a file's time goes, layer by layer.",
        cls=GroupedCommand,
        epilog=epilog("mnv4-deploy profile model.tflite --out report/"),
    )(profile)
    app.command(
        short_help="Show the measured ceilings of a machine.",
        cls=GroupedCommand,
        epilog=epilog("mnv4-deploy machine --threads 4"),
    )(machine)
    app.command(
        short_help="Predict latencies on machines of any balance.",
        cls=GroupedCommand,
        epilog=epilog("mnv4-deploy roofline --models conv-s,hybrid-m"),
    )(roofline)


def profile(
    file: File,
    threads: Threads = 1,
    warmup: Warmup = 5,
    runs: Runs = 400,
    max_seconds: MaxSeconds = 8.0,
    cpus: Cpus = None,
    shape: Shape = None,
    input_value: InputValue = None,
    signature: Signature = "",
    machine: Annotated[
        str,
        typer.Option(
            help="this: roof of the machine it runs on, measured once; none: no roof; or a "
            "published machine that `mnv4-deploy machine` lists: predict, do not measure."
        ),
    ] = "this",
    statistic: Statistics = "min",
    sort: Annotated[
        str,
        typer.Option(
            metavar="time|order|recoverable|macs|intensity|roof", help="Order of the rows."
        ),
    ] = "time",
    group_by: Annotated[
        str, typer.Option(metavar="layer|module|block|op", help="What a row is.")
    ] = "layer",
    top: Annotated[int, typer.Option(help="Rows to show, 0 for all.")] = 15,
    device: DeviceText = "",
    setup: Setup = False,
    device_python: DevicePython = "",
    device_folder: DeviceFolder = "",
    benchmark_model: BenchmarkModel = "",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for profile.json, layers.csv, roofline.png and .svg, report.html, "
            "model-explorer.json and trace.json."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier profile in --out.")
    ] = False,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="One line a layer on stdout.")] = False,
) -> None:
    """Show where a model file's time goes, what each layer could reach, and what to do."""
    from mnv4_deploy.pipelines.profile import ProfileRequest
    from mnv4_deploy.profiles.records.profile import STATISTICS
    from mnv4_deploy.terminal.profile import SORTS

    _choice("--sort", sort, SORTS)
    _choice("--statistic", statistic, STATISTICS)
    _choice("--group-by", group_by, ("layer", "module", "block", "op"))
    check_top(top)
    if as_json and as_csv:
        raise UnsupportedError("--json and --csv both write to stdout: give one of them.")
    request = measure_request(
        file, threads, warmup, runs, max_seconds, cpus, shape, input_value, signature
    )
    options = device_options(setup, device_python, device_folder, benchmark_model, device=device)
    from mnv4_deploy.pipelines import profile as profile_pipeline

    if machine not in ("this", "none"):
        if device:
            raise UnsupportedError("--machine predicts for what is not here: leave out --device.")
        prediction, predicted = profile_pipeline.predict_file(
            request, machine, progress(), timed=as_csv, out=out, overwrite=overwrite
        )
        if predicted is None:
            _print_ratio(prediction, top=top, as_json=as_json)
            return
        result = predicted
    else:
        result = profile_pipeline.profile(
            ProfileRequest(
                request,
                ceilings=machine == "this",
                statistic=cast("Any", statistic),
                out=out,
                overwrite=overwrite,
                device=device,
                device_options=options,
            ),
            progress(),
        )
    if as_json:
        from mnv4_deploy.reports.profile.profile_json import profile_to_dict

        print_json(profile_to_dict(result))
    elif as_csv:
        from mnv4_deploy.reports.profile.csv_table import write_csv

        write_csv(result, sys.stdout)
    else:
        from mnv4_deploy.terminal.profile import print_outputs, print_profile

        print_profile(result, sort=cast("Any", sort), group_by=cast("Any", group_by), top=top)
        print_outputs(out)


def _print_ratio(prediction: FilePrediction, *, top: int, as_json: bool) -> None:
    """Of a machine that gives no times: what is known without them."""
    if as_json:
        print_json({"schema_version": 2, "predicted": True, **dataclasses.asdict(prediction)})
        return
    from mnv4_deploy.terminal.compare import print_prediction

    print_prediction(prediction, top=top)


def machine(
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure again what is cached.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option(help="Threads to measure with.  [default: what is cached, or 1]")
    ] = None,
    device: DeviceText = "",
    setup: Setup = False,
    device_python: DevicePython = "",
    device_folder: DeviceFolder = "",
    benchmark_model: BenchmarkModel = "",
    as_json: Json = False,
) -> None:
    """Show the measured ceilings of a machine, and the published machines to predict for."""
    from mnv4_deploy.pipelines import profile as profile_pipeline
    from mnv4_deploy.profiles.machine.published import published_machines

    options = device_options(setup, device_python, device_folder, benchmark_model, device=device)
    if device:
        found = profile_pipeline.device_machine(
            device, options, threads, progress(), measure_again=measure
        )
    else:
        found = profile_pipeline.machine(threads, progress(), measure_again=measure)
    published = published_machines()
    if as_json:
        print_json(
            {
                "schema_version": 1,
                "device" if device else "this_machine": dataclasses.asdict(found),
                "published": [dataclasses.asdict(entry) for entry in published],
            }
        )
        return
    from mnv4_deploy.terminal.machine import print_machine

    print_machine(found, published)


def roofline(
    models: Annotated[
        str | None, typer.Option(help="Names, separated by commas.  [default: the paper's five]")
    ] = None,
    max_ridge_point: Annotated[
        float, typer.Option(help="Last ridge point of the sweep, in MACs/byte.")
    ] = 500.0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for sweep.json, sweep.png and sweep.svg.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier sweep in --out.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Predict the models' latency on machines of every balance, as the MobileNetV4 paper does."""
    from mnv4_deploy.pipelines import ridge_sweep

    names = None
    if models is not None:
        names = tuple(name.strip() for name in models.split(",") if name.strip())
    result = ridge_sweep.sweep(names, max_ridge_point, progress(), out=out, overwrite=overwrite)
    if as_json:
        print_json(ridge_sweep.to_dict(result))
        return
    from mnv4_deploy.terminal.machine import print_sweep

    print_sweep(result)


def measure_request(
    file: Path,
    threads: int,
    warmup: int,
    runs: int,
    max_seconds: float,
    cpus: str | None,
    shapes: list[str] | None,
    inputs: list[str] | None,
    signature: str = "",
) -> Any:
    """The MeasureRequest that the options of a command ask for. Raises InputError."""
    from mnv4_deploy.profiles.graph.given_inputs import read_given
    from mnv4_deploy.profiles.records.profile import MeasureRequest

    return MeasureRequest(
        path=str(file),
        threads=threads,
        warmup=warmup,
        runs=runs,
        max_seconds=max_seconds,
        cpus=_cpus(cpus),
        shapes=dict(parse_shape(text) for text in shapes or ()),
        inputs=read_given(inputs or ()),
        signature=signature,
    )


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """NAME=1x3x224x224, or 1x3x224x224 for the only input (""). Raises UnsupportedError."""
    match = _SHAPE.fullmatch(text)
    if match is None:
        raise UnsupportedError(
            f"--shape {text} is no shape: give 1x3x224x224, or NAME=1x3x224x224."
        )
    return match["name"] or "", tuple(int(n) for n in re.split("[x,]", match["dims"]))


def _cpus(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    found: list[int] = []
    for part in text.split(","):
        match = _CPU_RANGE.fullmatch(part.strip())
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise UnsupportedError(f"--cpus {text} is no list of CPUs: give 0 or 0,2-3.")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return tuple(dict.fromkeys(found))


def check_top(top: int) -> None:
    """Raise UnsupportedError for a negative number of rows."""
    if top < 0:
        raise UnsupportedError(f"--top {top} makes no sense: give 0 for all rows.")


def _choice(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UnsupportedError(f"There is no {option} {value}: give {', '.join(allowed)}.")
