"""Export models in every format, precision and target, and record which of the files work.

    python benchmarks/record_support.py --models conv-s,hybrid-m
    python benchmarks/record_support.py --unknown

Writes what `mnv4-deploy models` shows, model by model, so that a run that was stopped goes on with
--unknown. Takes one to a few minutes a model. Exit code 1: a model could not be recorded.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from record_model import record_model

from mnv4_deploy.errors import DeployError
from mnv4_deploy.models import zoo
from mnv4_deploy.support import facts as support_facts
from mnv4_deploy.support.facts import ModelSupport

# The checkout's own, also where a copy of the package is installed.
FACTS = Path(__file__).parents[1] / "mnv4_deploy" / "support" / support_facts.FACTS.name


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--models", help="comma-separated; default: all")
    which.add_argument(
        "--unknown", action="store_true", help="only models of which anything is unknown here"
    )
    parser.add_argument("--out", type=Path, default=FACTS, help="default: the package's own file")
    return parser.parse_args()


def chosen(options: argparse.Namespace) -> tuple[str, ...]:
    if options.models is not None:
        return tuple(zoo.entry(name.strip()).name for name in options.models.split(","))
    if not options.unknown:
        return zoo.names()
    records, installed = support_facts.read(options.out), support_facts.installed_tools()
    return tuple(
        name
        for name in zoo.names()
        if any(
            file.works is None
            for file in support_facts.current(name, records.get(name), installed)
        )
    )


def summary(record: ModelSupport) -> str:
    failed = [file for file in record.files if not file.works]
    lines = [f"{len(record.files) - len(failed)} of {len(record.files)} files work"]
    lines += [f"    {f.format} {f.precision} ({f.target}): {f.reason}" for f in failed]
    lines += [
        f"    {f.format} {f.precision} ({f.target}): {f.partitions} partitions, outside "
        f"{dict(f.outside)}"
        for f in record.files
        if f.works and not f.whole and f.target == "xnnpack"
    ]
    return "\n".join(lines)


def main() -> int:
    options = parse_options()
    lost = 0
    try:
        models = chosen(options)
        support_facts.read(options.out)  # damaged: to be known before the hours of work
    except DeployError as error:
        say(f"record_support: {error}\n")
        return error.exit_code
    for index, model in enumerate(models, 1):
        started = time.perf_counter()
        say(f"[{index}/{len(models)}] {model}:")
        try:
            record = record_model(model, lambda step: say(f" {step}"))
            support_facts.write([record], options.out)
        except (DeployError, RuntimeError) as error:
            # A bug in one model's code must not cost the other models their hour.
            say(f"\n    not recorded: {error}\n")
            lost += 1
            continue
        say(f" {time.perf_counter() - started:.0f} s, {summary(record)}\n")
    return 1 if lost else 0


def say(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
