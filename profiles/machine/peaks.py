"""Ceilings through the runtimes: their own fastest kernels on operators that suit them.

A rate is MACs over the runtime's own time of the operator that multiplies (what layers are
measured with, and corrected as theirs), at its fastest run over all shapes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import get_args

from mnv4_deploy.profiles.machine.onnx_models import write_onnx, write_onnx_chain
from mnv4_deploy.profiles.machine.products import PRODUCTS, Compute, Product
from mnv4_deploy.profiles.machine.tflite_models import write_tflite, write_tflite_chain
from mnv4_deploy.profiles.measure.runners import open_runner
from mnv4_deploy.profiles.timing import time_run_us

_QUICK_RUNS, _LONG_RUNS, _LONG_ROUNDS = 6, 20, 3
_FINALISTS = 3
_CHAIN_LENGTHS = (20, 220)
_CHAIN_RUNS = 200


def xnnpack_peaks(threads: int, products: Sequence[Product] = PRODUCTS) -> dict[str, float]:
    """Best MAC/s of XNNPACK by compute type. Raises ToolchainError without LiteRT."""
    with tempfile.TemporaryDirectory(prefix="mnv4-deploy-") as folder:
        write = partial(write_tflite, Path(folder) / "product.tflite")
        return {c: _best_rate(write, c, threads, products) for c in get_args(Compute)}


def onnxruntime_peaks(threads: int, products: Sequence[Product] = PRODUCTS) -> dict[str, float]:
    """Best MAC/s of onnxruntime by compute type. Raises ToolchainError without it.

    Where onnxruntime turns int8 into uint8, because this processor multiplies that faster, both
    types run the same kernels and have the same peak.
    """
    with tempfile.TemporaryDirectory(prefix="mnv4-deploy-") as folder:
        write = partial(write_onnx, Path(folder) / "product.onnx")
        rates = {c: _best_rate(write, c, threads, products) for c in get_args(Compute)}
        if _runs_int8_as_uint8(write(products[0], "int8")):
            rates["int8"] = rates["uint8"] = max(rates["int8"], rates["uint8"])
    return rates


def _best_rate(
    write: Callable[[Product, Compute], Path],
    compute: Compute,
    threads: int,
    products: Sequence[Product],
) -> float:
    """MAC/s: all products briefly, then the fastest few for longer, in turns."""

    def rate(product: Product, runs: int) -> float:
        return product.macs / longest_op_us(write(product, compute), threads, runs) * 1e6

    quick = {p: rate(p, _QUICK_RUNS) for p in products}
    finalists = sorted(products, key=lambda p: -quick[p])[:_FINALISTS]
    long = [rate(p, _LONG_RUNS) for _ in range(_LONG_ROUNDS) for p in finalists]
    return max(*quick.values(), *long)


def longest_op_us(path: Path, threads: int, runs: int) -> float:
    """The least us of the longest operator of a model file, by the runtime's own clock."""
    with closing(open_runner(path, threads=threads)) as runner:
        plain_us = []
        for run in range(runs + 1):
            plain_us.append(time_run_us(runner.run))
            runner.run_profiled(record=run > 0)
        longest = max(min(op.samples_us) for op in runner.timings(plain_us))
    # The clocks tick in whole us: below one, all that is known is that it was less.
    return max(longest, 1.0)


def _runs_int8_as_uint8(path: Path) -> bool:
    import onnx

    from mnv4_deploy.profiles.run_ort import optimized_graph

    graph = optimized_graph(path).graph
    types = {i.name: i.data_type for i in graph.initializer}
    zero_points = [n.input[2] for n in graph.node if n.op_type.startswith("QLinear")]
    return any(types.get(name) == onnx.TensorProto.UINT8 for name in zero_points)


def xnnpack_op_overhead_us(threads: int) -> float:
    """What one more operator costs that has nothing to do, in us of wall time."""
    return _op_overhead_us(write_tflite_chain, "tflite", threads)


def onnxruntime_op_overhead_us(threads: int) -> float:
    """What one more node costs that has nothing to do, in us of wall time."""
    return _op_overhead_us(write_onnx_chain, "onnx", threads)


def _op_overhead_us(write: Callable[[Path, int], Path], suffix: str, threads: int) -> float:
    """Least time of a longer chain less that of a shorter one, for each operator more."""
    with tempfile.TemporaryDirectory(prefix="mnv4-deploy-") as folder, ExitStack() as stack:
        runners = []
        for length in _CHAIN_LENGTHS:
            path = write(Path(folder) / f"chain{length}.{suffix}", length)
            runners.append(stack.enter_context(closing(open_runner(path, threads=threads))))
        least = [float("inf")] * len(runners)
        for _ in range(_CHAIN_RUNS):
            for k, runner in enumerate(runners):
                least[k] = min(least[k], time_run_us(runner.run))
    short, long = _CHAIN_LENGTHS
    return max(0.0, (least[1] - least[0]) / (long - short))
