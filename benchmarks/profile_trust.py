"""Can the profiler be believed? Every file profiled twice, by two processes.

    python benchmarks/profile_trust.py out/hybrid-m/*.tflite out/hybrid-m/*.onnx

For each file: what profiling adds to the wall time, the sum of the layers over the wall time
without profiler, how far the two runs disagree on the ten slowest layers, and the layers above
their roof (there must be none: the roof would be wrong).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

import mnv4_deploy
from mnv4_deploy.profiles.records.profile import ModelProfile

SLOWEST = 10


def disagreement_percent(first: ModelProfile, second: ModelProfile) -> list[float]:
    """Of the ten slowest layers of the first run, the difference to the second, largest first."""
    slowest = sorted(first.layers, key=lambda layer: -layer.latency_us)[:SLOWEST]
    pairs = [(layer.latency_us, second.layers[layer.index].latency_us) for layer in slowest]
    return sorted((100 * abs(b / a - 1) for a, b in pairs), reverse=True)


def above_roof(profile: ModelProfile) -> list[str]:
    return [
        f"{layer.module or layer.name} {layer.bound.percent_of_roof:.0f} %"
        for layer in profile.layers
        if layer.bound and (layer.bound.percent_of_roof or 0) > 100
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--max-seconds", type=float, default=8.0)
    options = parser.parse_args()
    console = Console(width=110)
    table = Table(box=None, pad_edge=False)
    for title in (
        "file",
        "ms",
        "ms again",
        "overhead",
        "sum/wall",
        "again",
        "ten slowest differ",
        "best roof",
    ):
        table.add_column(title, justify="left" if title == "file" else "right")
    excesses = []
    for file in options.files:
        runs = [
            mnv4_deploy.profile(
                file,
                threads=options.threads,
                runs=options.runs,
                max_seconds=options.max_seconds,
            )
            for _ in range(2)
        ]
        first, second = runs
        differences = disagreement_percent(first, second)
        within = sum(d <= 5 for d in differences)
        shares = [x.bound.percent_of_roof or 0.0 for x in first.layers if x.bound]
        table.add_row(
            file.name,
            f"{first.trust.wall_us / 1e3:.2f}",
            f"{second.trust.wall_us / 1e3:.2f}",
            f"{first.trust.overhead_percent:+.1f} %",
            f"{first.trust.sum_percent:.1f} %",
            f"{second.trust.sum_percent:.1f} %",
            f"max {differences[0]:.1f} %, {within} within 5 %",
            f"{max(shares, default=0):.0f} %",
        )
        excesses += [f"{file.name}: {text}" for run in runs for text in above_roof(run)]
        for run in runs:
            for warning in run.trust.warnings:
                console.print(f"[dim]{file.name}: {warning}[/]", soft_wrap=True)
    console.print(table)
    console.print("Layers above their roof: " + ("; ".join(excesses) or "none"), soft_wrap=True)


if __name__ == "__main__":
    main()
