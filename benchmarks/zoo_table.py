"""Every model of the zoo, stock and ours: do they export, where do they run, how well, how fast?

    python benchmarks/zoo_table.py [--models a,b] [--rounds N] [--images N] [--cache DIR]
                                   [--json FILE] [--overwrite]

All models have random weights, norms included, and their native size. Stock is the best that the
public tools give from the reference module, as stock_onnx.py and stock_tflite.py say; attention
is written in the usual forms (stock_attention.py), of which the fastest counts, file by file.
Both sides have the same calibration images and are compared on the same others; stock's
candidates and ours take turns in one process, 1 thread, batch 1.

With --cache, files and what is known of them are kept, and an interrupted run goes on where it
was; times are always fresh. Where a goal is missed, times by kernel follow.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from build_pairs import FORMATS, Subject
from zoo_build import build_all
from zoo_files import FileRecord
from zoo_goals import MIN_ROUNDS, Goal, goals
from zoo_print import print_all
from zoo_rows import Row, rows, timed

from mnv4_deploy.errors import DeployError
from mnv4_deploy.images.sets import MIN_IMAGES
from mnv4_deploy.models import zoo

MODELS = (
    *(f"efficientvit-m{i}" for i in range(6)),
    *("mlla-t", "mlla-s", "mlla-b", "conv-s", "conv-m", "conv-l", "hybrid-m", "hybrid-l"),
)
WEIGHTS = "random:0"


def as_json(
    options: argparse.Namespace, found: Sequence[Row], reached: Sequence[Goal]
) -> dict[str, object]:
    table = []
    for row in found:
        times = [
            {
                "form": one.form,
                "stock_us": one.stock.median_us,
                "ours_us": one.ours.median_us,
                "ratio": one.ratio,
                "quartiles": one.quartiles,
                "round_ratios": one.round_ratios,
            }
            for one in row.races
        ]
        table.append(
            {
                **row.key._asdict(),
                "stock": {form or "only": _without_path(file) for form, file in row.stock},
                "ours": _without_path(row.ours),
                "sessions": times,
                "alone_us": row.alone and row.alone.median_us,
            }
        )
    return {
        "weights": WEIGHTS,
        "images": options.images,
        "rounds": options.rounds,
        "rows": table,
        "goals": [asdict(goal) for goal in reached],
    }


def _without_path(file: FileRecord) -> dict[str, object]:
    facts = asdict(file)
    facts["path"] = Path(file.path).name
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in facts.items()
    }


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated")
    parser.add_argument("--size", help="HxW or side; default: native")
    parser.add_argument("--rounds", type=int, default=60, help="at most, of five runs each")
    parser.add_argument(
        "--images", type=int, default=MIN_IMAGES, help="to calibrate, and others to compare on"
    )
    parser.add_argument("--jobs", type=int, default=2, help="models built at a time")
    parser.add_argument("--kernels", type=int, default=12, help="rows of the kernel tables")
    parser.add_argument("--cache", type=Path, help="keep files here for the next run")
    parser.add_argument("--json", type=Path, help="write all figures to this file, too")
    parser.add_argument("--overwrite", action="store_true", help="replace the JSON file")
    options = parser.parse_args()
    options.models = list(dict.fromkeys(options.models.split(",")))
    if options.rounds < MIN_ROUNDS:
        parser.error(f"--rounds must be at least {MIN_ROUNDS}, or no interval can be given")
    if options.jobs < 1:
        parser.error("--jobs must be at least 1")
    if options.images < MIN_IMAGES:
        parser.error(f"--images must be at least {MIN_IMAGES}")
    if options.json is not None:
        if options.json.exists() and not options.overwrite:
            parser.error(f"{options.json} exists: give --overwrite to replace it")
        if not options.json.parent.is_dir():
            parser.error(f"{options.json.parent} is no folder: make it first")
    try:
        if options.size is not None:
            options.size = zoo.parse_size(options.size)
        for model in options.models:
            zoo.entry(model)
            if options.size is not None:
                zoo.check_size(model, options.size)
    except DeployError as error:
        parser.error(str(error))
    return options


def run(options: argparse.Namespace, cache: Path) -> None:
    subjects = [
        Subject(
            model,
            WEIGHTS,
            options.size or (zoo.entry(model).native_size,) * 2,
            options.images,
            format_,
        )
        for model in options.models
        for format_ in FORMATS
    ]
    found = [timed(row, options.rounds) for row in rows(build_all(subjects, cache, options.jobs))]
    reached = goals({row.key: row.sessions for row in found if row.races})
    if options.json is not None:
        text = json.dumps(as_json(options, found, reached), indent=1, allow_nan=False)
        options.json.write_text(text + "\n", encoding="utf-8")
    print_all(found, reached, options.kernels)


def main() -> None:
    options = parse_options()
    with tempfile.TemporaryDirectory(prefix="zoo-table-") as scratch:
        run(options, (options.cache or Path(scratch)).resolve())


if __name__ == "__main__":
    main()
