"""The command drift. Parsing only."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

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
from mnv4_deploy.cli.preprocessing_options import (
    CropPct,
    InterpolationName,
    Mean,
    Std,
    given_options,
)
from mnv4_deploy.cli.talk import progress
from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.streams import complain

_MODEL = "A .tflite or .onnx file, or a name that `mnv4-deploy models` lists."


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(
        short_help="Tell what quantization cost, where, and why.",
        cls=GroupedCommand,
        epilog=epilog(
            "mnv4-deploy drift --reference fp32.onnx --candidate int8.tflite --data photos/",
            {1: "a limit of --fail-if is exceeded"},
        ),
    )(drift)


def drift(
    reference: Annotated[str, typer.Option(help=f"What is right. {_MODEL}")],
    candidate: Annotated[str, typer.Option(help=f"What is judged. {_MODEL}")],
    data: Annotated[
        str,
        typer.Option(help="A folder of images, with class folders or a labels file, or bundled."),
    ] = "bundled",
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Labels of the images, file,label lines, or names of the classes, one a line.  "
            "[default: found in --data]"
        ),
    ] = None,
    images: Annotated[
        int | None, typer.Option(help="How many, evenly over the classes.  [default: all]")
    ] = None,
    weights: Annotated[
        str, typer.Option(help="Weights of a model given by name, as for export.")
    ] = "bundled",
    size: Annotated[
        str | None, typer.Option(help="Input size, 256 or HEIGHTxWIDTH, where the file has none.")
    ] = None,
    mean: Mean = None,
    std: Std = None,
    crop_pct: CropPct = None,
    interpolation: InterpolationName = None,
    allow_preprocessing: Annotated[
        bool,
        typer.Option(
            "--allow-preprocessing", help="Let each see its own where their preprocessing differs."
        ),
    ] = False,
    layer_images: Annotated[
        int, typer.Option(help="Images for the comparison layer by layer, 0 for none.")
    ] = 32,
    workers: Annotated[
        int | None, typer.Option(help="Processes on this machine.  [default: one a CPU]")
    ] = None,
    cluster: Annotated[
        str,
        typer.Option(
            help="Run on a Dask cluster: its scheduler, such as tls://host:8786 (with the "
            "certificates of Dask's own configuration) or tcp://host:8786."
        ),
    ] = "",
    device: DeviceText = "",
    setup: Setup = False,
    device_python: DevicePython = "",
    device_folder: DeviceFolder = "",
    benchmark_model: BenchmarkModel = "",
    fail_if: Annotated[
        list[str] | None,
        typer.Option(help='Exit with 1 if this holds, such as "top1_drop > 0.5"; repeatable.'),
    ] = None,
    top: Annotated[int, typer.Option(help="Layers to show, 0 for all.")] = 10,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for drift.json, drift-report.html, drift-layers.csv and two overlays "
            "for Model Explorer."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier drift report in --out.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Tell what quantization cost in accuracy, which layers did it, and why."""
    from mnv4_deploy.drift.records import DriftRequest

    if top < 0:
        raise UnsupportedError(f"--top {top} makes no sense: give 0 for all layers.")
    given = given_options(mean=mean, std=std, crop_pct=crop_pct, interpolation=interpolation)
    if size is not None:
        given["size"] = size
    request = DriftRequest(
        reference=reference,
        candidate=candidate,
        data=data,
        labels_file=None if labels is None else str(labels),
        weights=weights,
        images=images,
        layer_images=layer_images,
        workers=workers,
        cluster=cluster,
        fail_if=tuple(fail_if or ()),
        preprocessing=given,
        allow_preprocessing=allow_preprocessing,
        out=out,
        overwrite=overwrite,
        device=device,
        device_options=device_options(
            setup, device_python, device_folder, benchmark_model, device=device
        ),
    )
    from mnv4_deploy.pipelines import drift as drift_pipeline

    result = drift_pipeline.drift(request, progress())
    if as_json:
        from mnv4_deploy.reports.drift.drift_json import drift_to_dict

        print_json(drift_to_dict(result))
    else:
        from mnv4_deploy.terminal.drift import print_drift

        print_drift(result, top=top)
        if out is not None:
            sys.stdout.write(f"Report: {out / 'drift-report.html'}\n")
    for limit in result.limits:
        if limit.state != "kept":
            why = f" is inconclusive: {limit.doubt}" if limit.doubt else ""
            complain(f"{limit.metric} is {limit.value:g}: {limit.text}{why}.")
    if result.failed:
        raise typer.Exit(1)
