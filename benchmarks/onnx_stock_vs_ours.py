"""Stock and our ONNX files of the same weights and calibration images, round-robin.

python benchmarks/onnx_stock_vs_ours.py [--models hybrid-m,conv-s] [--size 256]
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from stock_onnx import build_stock_onnx
from torch import nn

from mnv4_deploy.exporters.quantize_onnx import quantize_onnx
from mnv4_deploy.exporters.rewrites.fold_batch_norm import fold_batch_norm
from mnv4_deploy.exporters.rewrites.fold_layer_scale import fold_layer_scale
from mnv4_deploy.exporters.rewrites.fold_pre_norm import fold_pre_norm
from mnv4_deploy.exporters.rewrites.mqa_for_ort import mqa_for_ort
from mnv4_deploy.exporters.to_onnx import export_onnx
from mnv4_deploy.models.images import bundled_calibration, select
from mnv4_deploy.models.weights import load_reference
from mnv4_deploy.profiles.run_ort import time_files

MODELS = ("hybrid-m", "conv-s", "conv-m", "conv-l")
REWRITES = (fold_batch_norm, fold_layer_scale, fold_pre_norm, mqa_for_ort)


def build_our_onnx(
    module: nn.Module,
    fp32_path: Path,
    int8_path: Path,
    *,
    input_shape: tuple[int, int, int],
    calibration: Iterable[npt.NDArray[np.float32]],
) -> None:
    rewritten = copy.deepcopy(module).eval()
    example = torch.zeros(1, 3, *input_shape[1:])
    with torch.no_grad():
        for rewrite in REWRITES:
            rewrite(rewritten, example)
    export_onnx(rewritten, fp32_path, input_shape=input_shape)
    quantize_onnx(fp32_path, int8_path, calibration)


def compare(model: str, size: int, images: int, rounds: int, threads: int) -> str:
    """One row of the table: ratios of our run time to the stock files'."""
    weights = "bundled" if model == "hybrid-m" else "random"
    reference = load_reference(model, weights, size=(size, size))
    chosen = select(bundled_calibration(reference), images)
    batches = [
        np.ascontiguousarray(batch.transpose(0, 3, 1, 2))
        for batch in chosen.batches(reference.preprocessing, 1)
    ]
    with tempfile.TemporaryDirectory() as folder:
        names = ("stock-fp32", "ours-fp32", "stock-int8", "ours-int8")
        paths = [Path(folder) / f"{name}.onnx" for name in names]
        shape = (1, size, size)
        build_stock_onnx(
            reference.module, paths[0], paths[2], input_shape=shape, calibration=batches
        )
        build_our_onnx(
            reference.module, paths[1], paths[3], input_shape=shape, calibration=batches
        )
        times = time_files(paths, threads=threads, rounds=rounds, burst=3)
    stock_fp32, ours_fp32, stock_int8, ours_int8 = times
    cells = [f"{t.median_us / 1000:8.2f}" for t in times]
    return (
        f"{model:10}{''.join(f'{c:>12}' for c in cells)}"
        f"{ours_fp32.ratio_to(stock_fp32):12.3f}{ours_int8.ratio_to(stock_int8):12.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    heads = ("stock fp32", "ours fp32", "stock int8", "ours int8", "fp32 ratio", "int8 ratio")
    print(f"{'ms, ratio':10}{''.join(f'{h:>12}' for h in heads)}", flush=True)
    for model in options.models.split(","):
        row = compare(model, options.size, options.images, options.rounds, options.threads)
        print(row, flush=True)


if __name__ == "__main__":
    main()
