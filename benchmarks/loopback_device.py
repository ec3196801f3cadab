"""A device over a real ssh connection to this machine: the same figures, and nothing left behind.

    python benchmarks/loopback_device.py --model out/hybrid-m/hybrid-m-int8.tflite

The device has a user, packages and temporary folder of its own (as root; see
tests/device/loopback.py). Three parts, all through the command line:

1. `profile --device ssh://…` and the local `profile` take turns: the same operators in the same
   order, and the ratio of their times.
2. A `profile --device` is cut off in the middle, by killing its ssh and by Ctrl-C; then the
   device's files and processes are listed until there are none.
3. Files whose names hold shell metacharacters are profiled; nothing but the profile may happen.

The exit code is 1 unless all of it holds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from mnv4_deploy.profiles.machine.products import PRODUCTS
from mnv4_deploy.profiles.machine.tflite_models import write_tflite
from tests.device.loopback import Loopback, loopback

NAMES = (
    *("$(touch HACKED).tflite", "`touch HACKED`.tflite", ";touch HACKED;.tflite"),
    *("a && touch HACKED #.tflite", "a|touch HACKED.tflite", "'; touch HACKED; '.tflite"),
    *('"$(touch HACKED)".tflite', "a\ntouch HACKED\n.tflite", "-rf *.tflite"),
    "${IFS}~ ü>HACKED.tflite",
)
_COMMAND = (sys.executable, "-m", "mnv4_deploy")


def profile(path: Path | str, *options: str) -> dict[str, Any]:
    """The JSON of `mnv4-deploy profile`; ends the program where that fails."""
    name = str(path)
    command = [*_COMMAND, "profile", "--machine", "none", "--json", *options, "--", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\nexit code {done.returncode}\n{done.stderr}")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def same_figures(device: Loopback, model: Path, rounds: int, seconds: float) -> bool:
    """Part 1. Both ways in turns, so that a machine that slows down slows both."""
    limits = ("--max-seconds", f"{seconds:g}")
    here, there = [], []
    for _ in range(rounds):
        here.append(profile(model, *limits))
        there.append(profile(model, *limits, "--device", device.address))
    operators = [
        [(op["tag"], op["kind"], op["partition"]) for op in p["runtime_operators"]]
        for p in (*here, *there)
    ]
    joined = [
        [
            (layer["module"], layer["kind"], layer["runtime_operator_indices"])
            for layer in p["layers"]
        ]
        for p in (*here, *there)
    ]
    walls = [[p["wall"]["min_us"] / 1e3 for p in group] for group in (here, there)]
    ratio = median(t / h for h, t in zip(*walls, strict=True))
    layers = layer_ratios(here, there)
    same = all(o == operators[0] for o in operators) and all(j == joined[0] for j in joined)
    table = Table(title=f"{model.name}: here and over ssh, {rounds} rounds in turns")
    for heading in ("", "here", "over ssh"):
        table.add_column(heading, justify="right")
    table.add_row("runtime operators", str(len(operators[0])), str(len(operators[rounds])))
    table.add_row("layers", str(len(joined[0])), str(len(joined[rounds])))
    for number, (h, t) in enumerate(zip(*walls, strict=True), 1):
        table.add_row(f"fastest run, round {number}", f"{h:.3f} ms", f"{t:.3f} ms")
    console = Console()
    console.print(table)
    console.print(
        f"operators and layers {'the same' if same else 'NOT the same'}; fastest run over ssh / "
        f"here: median {ratio:.3f}; the 20 slowest layers: median ratio {median(layers):.3f}, "
        f"from {min(layers):.3f} to {max(layers):.3f}"
    )
    return same


def layer_ratios(here: list[dict[str, Any]], there: list[dict[str, Any]]) -> list[float]:
    """Of the 20 slowest layers: the least time over all rounds there, over the least here."""
    least = [
        [
            min(column)
            for column in zip(
                *([x["latency_us"] for x in p["layers"]] for p in group), strict=True
            )
        ]
        for group in (here, there)
    ]
    slowest = sorted(range(len(least[0])), key=lambda i: -least[0][i])[:20]
    return [least[1][i] / least[0][i] for i in slowest if least[0][i]]


def nothing_left(device: Loopback, model: Path) -> bool:
    """Part 2."""
    fine = True
    for title, cut in (("its ssh is killed", kill_ssh), ("Ctrl-C", interrupt)):
        command = [*_COMMAND, "profile", str(model), "--machine", "none"]
        command += ["--max-seconds", "60", "--runs", "10000", "--device", device.address]
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        wait_for(lambda: len(device.processes()) >= 3 and device.left, 30)
        time.sleep(3)  # in the middle of the measurement
        print(
            f"\nMeasuring: {len(device.processes())} processes and {names(device)} on the device."
        )
        started = time.monotonic()
        cut(process)
        _, errors = process.communicate(timeout=60)
        print(f"Cut ({title}): exit code {process.returncode}, {errors.strip()[-200:]}")
        wait_for(lambda: not device.left and not device.processes(), 70)
        clean = not device.left and not device.processes()
        fine &= clean
        print(
            f"After {time.monotonic() - started:.1f} s: {len(device.processes())} processes, "
            f"{names(device) or 'no file'} on the device."
        )
    return fine


def names(device: Loopback) -> str:
    return ", ".join(path.name for path in device.left)


def kill_ssh(process: subprocess.Popen[str]) -> None:
    found = subprocess.run(
        ["pgrep", "-x", "-P", str(process.pid), "ssh"], capture_output=True, text=True, check=True
    )
    os.kill(int(found.stdout.split()[0]), signal.SIGKILL)


def interrupt(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGINT)


def wait_for(condition: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)


def names_do_nothing(device: Loopback) -> bool:
    """Part 3."""
    folder = Path(tempfile.mkdtemp(prefix="names-"))
    before = Path.cwd()
    os.chdir(folder)
    try:
        source = write_tflite(folder / "model.tflite", PRODUCTS[0], "int8")
        for name in NAMES:
            shutil.copyfile(source, folder / name)
            found = profile(name, "--runs", "3", "--device", device.address)
            print(f"{name!r:42} {len(found['layers'])} layers, {found['wall']['min_us']:.0f} us")
        here = sorted(path.name for path in folder.iterdir())
        device.await_nothing()
        hacked = [
            path
            for root in (device.home, device.temporary, folder)
            for path in root.rglob("HACKED*")
        ]
        fine = not hacked and here == sorted([*NAMES, "model.tflite"])
        print(f"Files made by a name, here or on the device: {[str(p) for p in hacked] or 'none'}")
        return fine
    finally:
        os.chdir(before)
        shutil.rmtree(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    arguments = parser.parse_args()
    # A shell that starts this in the background has it, and its children, ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with loopback() as device:
        print(f"device: {device.address}, user id {device.uid}")
        results = [
            same_figures(device, arguments.model, arguments.rounds, arguments.seconds),
            nothing_left(device, arguments.model),
            names_do_nothing(device),
        ]
    print(f"\nsame figures, nothing left, names do nothing: {results}")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
