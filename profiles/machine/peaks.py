"""Ceilings through the runtimes: their own fastest kernels on operators that suit them.

A rate is MACs over the runtime's own time of the operator that multiplies (what layers are
measured with, and corrected as theirs), at its fastest run over all shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import NamedTuple, get_args

from mnv4_deploy.profiles.files.own import scratch_folder
from mnv4_deploy.profiles.machine.onnx_models import write_onnx, write_onnx_chain
from mnv4_deploy.profiles.machine.products import PRODUCTS, Compute, Product
from mnv4_deploy.profiles.machine.tflite_models import write_tflite, write_tflite_chain
from mnv4_deploy.profiles.records.inputs import RunSettings
from mnv4_deploy.profiles.runtimes.ort.run import OrtRunner
from mnv4_deploy.profiles.runtimes.runners import Runner, open_runner
from mnv4_deploy.profiles.runtimes.timing import time_run_us

_QUICK_RUNS, _LONG_RUNS, _LONG_ROUNDS = 6, 20, 3
_FINALISTS = 3
_CHAIN_LENGTHS = (20, 220)
_CHAIN_RUNS = 200


class ModelFiles(NamedTuple):
    """How files of one operator, and of a chain of additions, come to be."""

    suffix: str
    product: Callable[[Path, Product, Compute], Path]
    chain: Callable[[Path, int], Path]


TFLITE = ModelFiles(".tflite", write_tflite, write_tflite_chain)
ONNX = ModelFiles(".onnx", write_onnx, write_onnx_chain)


def sent_models(models: Mapping[str, bytes]) -> ModelFiles:
    """.onnx files that :func:`models_to_send` made elsewhere."""

    def write(path: Path, name: str) -> Path:
        path.write_bytes(models[name])
        return path

    return ModelFiles(
        ".onnx",
        lambda path, product, compute: write(path, _product_name(product, compute)),
        lambda path, length: write(path, _chain_name(length)),
    )


def models_to_send() -> dict[str, bytes]:
    """All .onnx files that onnxruntime's ceilings are measured with, by name; a few MB."""
    with scratch_folder() as folder:
        path = folder / "model.onnx"
        found = {
            _product_name(product, compute): ONNX.product(path, product, compute).read_bytes()
            for product in PRODUCTS
            for compute in get_args(Compute)
        }
        for length in _CHAIN_LENGTHS:
            found[_chain_name(length)] = ONNX.chain(path, length).read_bytes()
    return found


def _product_name(product: Product, compute: str) -> str:
    return " ".join([compute, *map(str, astuple(product))])


def _chain_name(length: int) -> str:
    return f"chain {length}"


def xnnpack_peaks(threads: int) -> dict[str, float]:
    """Best MAC/s of XNNPACK by compute type. Raises ToolchainError without LiteRT."""
    with scratch_folder() as folder:
        write = partial(TFLITE.product, folder / "product.tflite")
        return {c: _best_rate(write, c, threads, PRODUCTS) for c in get_args(Compute)}


def onnxruntime_peaks(
    threads: int, products: Sequence[Product] = PRODUCTS, files: ModelFiles = ONNX
) -> dict[str, float]:
    """Best MAC/s of onnxruntime by compute type. Raises ToolchainError without it.

    Where onnxruntime turns int8 into uint8, because this processor multiplies that faster, both
    types run the same kernels and have the same peak.
    """
    with scratch_folder() as folder:
        write = partial(files.product, folder / "product.onnx")
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
    with closing(_open(path, threads)) as runner:
        plain_us = []
        for run in range(runs + 1):
            plain_us.append(time_run_us(runner.run))
            runner.run_profiled(record=run > 0)
        timings = runner.timings(plain_us)
    longest = max(min(op.samples_us) for op in timings if op.backend != "runtime")
    # The clocks tick in whole us: below one, all that is known is that it was less.
    return max(longest, 1.0)


def _runs_int8_as_uint8(path: Path) -> bool:
    """By the types of the tensors in onnxruntime's own profile of the file."""
    from mnv4_deploy.profiles.runtimes.errors import translated
    from mnv4_deploy.profiles.runtimes.ort.inputs import example_inputs
    from mnv4_deploy.profiles.runtimes.ort.profile_file import read_profile
    from mnv4_deploy.profiles.runtimes.ort.session import open_session, runtime_name

    with translated(runtime_name(), "run", path):
        session = open_session(path, profile_prefix=path.with_suffix(""))
        session.run(None, example_inputs(session))
    return any(
        str(event["args"].get("op_name")).startswith("QLinear")
        and "uint8" in event["args"]["input_type_shape"][0]
        for event in read_profile(Path(session.end_profiling()))
        if "input_type_shape" in event.get("args", {})
    )


def xnnpack_op_overhead_us(threads: int) -> float:
    """What one more operator costs that has nothing to do, in us of wall time."""
    return _op_overhead_us(TFLITE, threads)


def onnxruntime_op_overhead_us(threads: int, files: ModelFiles = ONNX) -> float:
    """What one more node costs that has nothing to do, in us of wall time."""
    return _op_overhead_us(files, threads)


def _op_overhead_us(files: ModelFiles, threads: int) -> float:
    """Least time of a longer chain less that of a shorter one, for each operator more."""
    with scratch_folder() as folder, ExitStack() as stack:
        runners = []
        for length in _CHAIN_LENGTHS:
            path = files.chain(folder / f"chain{length}{files.suffix}", length)
            runners.append(stack.enter_context(closing(_open(path, threads))))
        least = [float("inf")] * len(runners)
        for _ in range(_CHAIN_RUNS):
            for k, runner in enumerate(runners):
                least[k] = min(least[k], time_run_us(runner.run))
    short, long = _CHAIN_LENGTHS
    return max(0.0, (least[1] - least[0]) / (long - short))


def _open(path: Path, threads: int) -> Runner:
    if path.suffix == ONNX.suffix:
        # Our nodes have names of their own, so that no copy with others is made, which onnx does.
        return OrtRunner(path, RunSettings(threads), named=True)
    return open_runner(path, RunSettings(threads=threads))
