"""Stock files and ours from the same weights and calibration images, timed round-robin.

    python benchmarks/stock_vs_ours.py --models hybrid-m,conv-s --formats tflite,onnx --size 256

Stock is the best that the public tools give from an ordinary PyTorch model; where a model has
attention, its TFLite file is built in two usual forms and the faster one counts, dtype by dtype.
int8 TFLite files take int8 on both sides. Random weights stand in for models without bundled
ones: they change no operator and no shape.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from build_pairs import FORMATS, build_pairs
from measure_pairs import Comparison, compare, op_histogram_changes
from rich.console import Console
from rich.table import Table
from this_cpu import this_cpu

from mnv4_deploy.models import zoo

MODELS = ("hybrid-m", "conv-s", "conv-m", "conv-l")


def overview(comparisons: list[Comparison]) -> Table:
    table = Table(title="Stock and ours, medians; the ratio's quartiles over rounds in brackets")
    for heading in ("model", "file", "stock us", "ours us", "ours / stock"):
        table.add_column(heading, justify="left" if heading in ("model", "file") else "right")
    for heading in ("of fastest", "partitions", "ops outside", "% outside kernels"):
        table.add_column(heading, justify="right")
    for c in comparisons:
        table.add_row(
            c.model,
            f"{c.format} {c.dtype}",
            f"{c.stock.median_us:.0f} {c.stock.form}",
            f"{c.ours.median_us:.0f}",
            f"{c.ratio:.3f} [{c.ratio_quartiles[0]:.3f}-{c.ratio_quartiles[1]:.3f}]",
            f"{c.fastest_ratio:.3f}",
            "-" if c.ours.partitions is None else f"{c.stock.partitions} -> {c.ours.partitions}",
            "-" if c.ours.outside is None else f"{c.stock.outside} -> {c.ours.outside}",
            f"{c.stock.other_share:.1%} -> {c.ours.other_share:.1%}",
        )
    return table


def breakdown(c: Comparison, limit: int) -> Table:
    """Where the time goes, kernel by kernel, the most expensive first."""
    table = Table(title=f"{c.model} {c.format} {c.dtype}: us by kernel")
    table.add_column("kernel")
    table.add_column("stock us", justify="right")
    table.add_column("ours us", justify="right")
    stock, ours = c.stock.by_tag_us, c.ours.by_tag_us
    tags = sorted({*stock, *ours}, key=lambda tag: -max(stock.get(tag, 0), ours.get(tag, 0)))
    for tag in tags[:limit]:
        cells = [f"{side[tag]:.0f}" if tag in side else "-" for side in (stock, ours)]
        table.add_row(tag, *cells)
    rest = [sum(side.get(tag, 0) for tag in tags[limit:]) for side in (stock, ours)]
    table.add_row("all others", *(f"{us:.0f}" for us in rest), end_section=True)
    table.add_row("sum", *(f"{sum(side.values()):.0f}" for side in (stock, ours)))
    return table


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated")
    parser.add_argument("--formats", default="tflite,onnx", help="comma-separated")
    parser.add_argument("--size", type=zoo.parse_size, help="HxW or side; default: native")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--images", type=int, default=32, help="calibration images")
    parser.add_argument("--kernels", type=int, default=12, help="rows of the kernel tables")
    parser.add_argument("--cache", type=Path, help="keep built files here for the next run")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args()
    options.models = options.models.split(",")
    options.formats = options.formats.split(",")
    for format_ in options.formats:
        if format_ not in FORMATS:
            parser.error(f"--formats takes {', '.join(FORMATS)}, not {format_!r}")
    for model in options.models:
        zoo.entry(model)
    return options


def run(options: argparse.Namespace, cache: Path) -> list[Comparison]:
    comparisons: list[Comparison] = []
    for model in options.models:
        size = options.size or (zoo.entry(model).native_size,) * 2
        for format_ in options.formats:
            print(f"{model} {format_}: building", file=sys.stderr, flush=True)
            for pair in build_pairs(model, format_, size, options.images, cache):
                print(f"{model} {format_} {pair.dtype}: timing", file=sys.stderr, flush=True)
                comparisons.append(compare(pair, options.threads, options.rounds))
    return comparisons


def main() -> None:
    options = parse_options()
    with tempfile.TemporaryDirectory(prefix="stock-vs-ours-") as scratch:
        comparisons = run(options, options.cache or Path(scratch))
    if options.json:
        print(json.dumps([asdict(c) for c in comparisons], indent=1))
        return
    console = Console(width=max(Console().width, 130))
    console.print(this_cpu())
    console.print(overview(comparisons))
    for comparison in comparisons:
        console.print(breakdown(comparison, options.kernels))
        console.print(f"operators: {op_histogram_changes(comparison)}\n")


if __name__ == "__main__":
    main()
