"""What every command has: help in groups with an example, and defaults that a project gives."""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from typer.core import TyperCommand

from mnv4_deploy.cli.config import use_project_defaults

WHAT, DEVICE, OUTPUT = "What", "Device", "Output"
IMAGES, QUANTIZATION, MEASUREMENT = "Images", "Quantization", "Measurement"
_ORDER = (WHAT, IMAGES, QUANTIZATION, MEASUREMENT, DEVICE, OUTPUT)
_GROUPS: Mapping[str, tuple[str, ...]] = {
    WHAT: (
        *("model", "file", "files", "models", "where", "reference", "candidate"),
        *("weights", "format", "size", "num-classes", "batch", "dynamic-batch", "shape", "input"),
        *("signature", "bake-preprocess", "machine", "max-ridge-point", "measure", "clear"),
    ),
    IMAGES: (
        *("calib", "calib-images", "eval", "eval-images", "data", "labels", "images", "seed"),
        *("mean", "std", "crop-pct", "interpolation", "allow-preprocessing", "layer-images"),
    ),
    QUANTIZATION: ("int8", "fp16", "target", "io", "calib-method", "max-drop", "confident"),
    MEASUREMENT: (
        *("threads", "warmup", "runs", "max-seconds", "cpus", "statistic", "workers", "cluster"),
        *("tolerance", "accuracy", "fail-if", "fail-if-slower", "max-total-seconds"),
    ),
    DEVICE: (
        *("device", "setup", "remove-setup", "device-python", "device-folder"),
        "benchmark-model",
    ),
    OUTPUT: ("out", "overwrite", "json", "csv", "sort", "group-by", "top", "help"),
}
GROUP_OF = {name: group for group, names in _GROUPS.items() for name in names}
_LIST = re.compile(r"<list\[(\w+)\]>")
_CODES = {
    0: "done",
    2: "something given cannot be used, or a library is missing",
    4: "a library or runtime failed",
    130: "interrupted",
}


class GroupedCommand(TyperCommand):
    """A command whose options are listed by what they are about, with defaults of a project."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        use_project_defaults(ctx, args)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                name, told = record
                # What is given many times is given one by one.
                groups[group_of(parameter)].append((_LIST.sub(r"<\1>", name), told))
        for group in sorted(groups, key=_ORDER.index):
            with formatter.section(group):
                formatter.write_dl(groups[group])


def group_of(parameter: Any) -> str:
    """The group of a parameter: an argument's by its name, an option's by its longest one."""
    name = max(parameter.opts, key=len).lstrip("-")
    return GROUP_OF[name]


def epilog(example: str, codes: Mapping[int, str] | None = None) -> str:
    """An example and the exit codes, ``codes`` being those of the command's own."""
    told = sorted({**_CODES, **(codes or {})}.items())
    lines = "\n".join(f"  {code:<4}{what}" for code, what in told)
    # click leaves the lines of a paragraph alone that starts with \b.
    return inspect.cleandoc(f"\b\nExample:\n  {example}") + f"\n\n\b\nExit codes:\n{lines}"
