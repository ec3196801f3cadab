"""Files of anybody through four commands, beside what their own runtime says.

    python benchmarks/any_files.py FILE ... [--checkout DIR]

For each file: exit code, operators (+ those of bodies and branches) and partitions that
``inspect`` tells, and those of LiteRT's Interpreter with its default delegate, without bodies
(of ONNX: the nodes of the file and of its branches); exit code, wall time, the largest and the
smallest share of a row and the sum of all, against the time of runs without a profiler, that
``profile`` tells, and the median time of plain runs by the runtime's own Python binding; exit
codes of ``compare`` of the file with itself and of ``parity`` with a process of this machine.
Shapes that a refusal advises are given, as a user would. A ``--checkout`` of another version is
run instead of this one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

_ROOT = Path(__file__).parent.parent
_OWN_RUNS = 30
_WIDTH = 150
_REFUSED = "refused"
_HERE = ("--device", "local", "--data", "random", "--images", "2")


def command(checkout: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, what --json gave, and the first line on standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "mnv4_deploy", *arguments, "--json"],
        check=False,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
    )
    try:
        found = json.loads(done.stdout)
    except ValueError:
        found = {}
    lines = done.stderr.strip().splitlines()
    return done.returncode, {} if "error" in found else found, lines[-1] if lines else ""


def own_tflite(path: Path, shapes: dict[str, tuple[int, ...]]) -> tuple[str, str]:
    """Operators and partitions, and the time of a run, of LiteRT's Interpreter."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = Interpreter(
        model_path=str(path),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    count = len(plain._get_ops_details())
    running = Interpreter(model_path=str(path), num_threads=1)
    inputs = running.get_input_details()
    for tensor in inputs:
        if shape := shapes.get(tensor["name"], shapes.get("") if len(inputs) == 1 else None):
            running.resize_tensor_input(tensor["index"], shape)
    running.allocate_tensors()
    delegated = [op for op in running._get_ops_details() if op["op_name"] == "DELEGATE"]
    for tensor in running.get_input_details():
        running.set_tensor(tensor["index"], np.zeros(tensor["shape"], tensor["dtype"]))
    return f"{count} in {len(delegated)}", _timed(running.invoke)


def own_onnx(path: Path, shapes: dict[str, tuple[int, ...]]) -> tuple[str, str]:
    """Nodes of the file and all inside them, and the time of a run, of onnxruntime."""
    import onnx
    import onnxruntime

    from mnv4_deploy.profiles.runtimes.made_up import InputSpec, input_values

    model = onnx.load(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    specs = [
        InputSpec(t.name, shapes.get(t.name) or tuple(map(_side, t.shape)), _dtype(t.type))
        for t in session.get_inputs()
    ]
    feed = dict(zip([spec.name for spec in specs], input_values(specs, {}), strict=True))
    return str(_nodes(model.graph)), _timed(lambda: session.run(None, feed))


def _side(side: Any) -> int:
    return side if isinstance(side, int) else 1


def _dtype(name: str) -> str:
    kinds = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(bool)": "bool"}
    return kinds.get(name, name.removeprefix("tensor(").removesuffix(")"))


def _nodes(graph: Any) -> int:
    """Constants are no operators."""
    return sum(
        (node.op_type != "Constant")
        + sum(_nodes(attribute.g) for attribute in node.attribute if attribute.HasField("g"))
        for node in graph.node
    )


def _timed(run: Callable[[], Any]) -> str:
    times = []
    for _ in range(_OWN_RUNS):
        start = time.perf_counter_ns()
        run()
        times.append((time.perf_counter_ns() - start) / 1e6)
    return f"{median(times):.3f}"


def own(path: Path, shapes: dict[str, tuple[int, ...]]) -> tuple[str, str]:
    """In a process of its own, which a damaged file may end."""
    call = f"own_{path.suffix[1:]}(Path({str(path)!r}), {shapes!r})"
    code = f"from benchmarks.any_files import *; print(*{call})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        return _REFUSED, _REFUSED
    operators, _, latency = done.stdout.strip().splitlines()[-1].rpartition(" ")
    return operators, latency


def told(facts: dict[str, Any]) -> str:
    """Operators and partitions of what ``inspect --json`` gave."""
    inside = sum(len(body["operators"]) for body in facts.get("bodies", []))
    operators = f"{len(facts['operators'])}{f' + {inside}' if inside else ''}"
    return f"{operators} in {facts['partitions']}" if facts["format"] == "tflite" else operators


def profiled(profile: dict[str, Any]) -> tuple[str, str, str]:
    """Wall time in ms, smallest and largest share in percent, and their sum."""
    trust = profile["trust"]
    wall = f"{trust['wall_us'] / 1e3:.3f}"
    shares = [layer["share_percent"] for layer in profile["layers"]]
    if not shares:
        return wall, "whole only", ""
    whole = 100 * trust["layers_us"] / trust["wall_us"]
    return wall, f"{min(shares):.1f} to {max(shares):.0f}", f"{whole:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--checkout", type=Path, default=_ROOT)
    options = parser.parse_args()
    table = Table(title="Ours | the runtime's own", box=None, pad_edge=False)
    table.add_column("file", overflow="fold")
    for heading in ("inspect", "operators", "own", "profile", "ms", "own ms", "row %", "sum %"):
        table.add_column(heading, justify="right")
    for heading in ("compare", "parity"):
        table.add_column(heading, justify="right")
    refusals: list[str] = []
    for path in options.files:
        inspected, facts, _ = command(options.checkout, "inspect", str(path))
        code, profile, line = command(options.checkout, "profile", str(path))
        advised = re.findall(r"(?:(\S+)=)?(\d+(?:x\d+)+)", line.partition("--shape")[2])
        shapes = {name: tuple(map(int, sides.split("x"))) for name, sides in advised}
        words = [word for n, s in advised for word in ("--shape", f"{n}={s}" if n else s)]
        if words:
            code, profile, line = command(options.checkout, "profile", str(path), *words)
        operators, latency = own(path, shapes)
        figures = profiled(profile) if code == 0 else ("", "", "")
        compared, *_ = command(options.checkout, "compare", str(path), str(path), *words)
        equal, *_ = command(options.checkout, "parity", str(path), *_HERE, *words)
        counts = told(facts) if facts else ""
        table.add_row(
            path.name,
            *(str(inspected), counts, operators),
            *(str(code), figures[0], latency, *figures[1:], str(compared), str(equal)),
        )
        if code:
            refusals.append(f"{path.name}: {line}")
        print(f"{path.name} done", file=sys.stderr)
    console = Console(width=_WIDTH)
    console.print(table)
    for line in refusals:
        console.print(line, markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
