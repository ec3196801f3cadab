"""Which rewrites each format gets, in which order. The order matters where a comment says so."""

from __future__ import annotations

import copy

import torch
from torch import nn

from mnv4_deploy.exporters.rewrites.base import Rewrite, RewriteReport
from mnv4_deploy.exporters.rewrites.fold_batch_norm import fold_batch_norm
from mnv4_deploy.exporters.rewrites.fold_layer_scale import fold_layer_scale
from mnv4_deploy.exporters.rewrites.fold_pre_norm import fold_pre_norm
from mnv4_deploy.exporters.rewrites.mqa_for_ort import mqa_for_ort
from mnv4_deploy.exporters.rewrites.mqa_no_transpose import mqa_no_transpose

_FOLDS: tuple[Rewrite, ...] = (
    fold_batch_norm,
    fold_layer_scale,  # after the norm between it and its convolution has gone
    fold_pre_norm,
)
CHAINS: dict[str, tuple[Rewrite, ...]] = {
    "onnx": (*_FOLDS, mqa_for_ort),
    "tflite": (*_FOLDS, mqa_no_transpose),
}


def rewrite(
    module: nn.Module, format_: str, size: tuple[int, int]
) -> tuple[nn.Module, tuple[RewriteReport, ...]]:
    """A rewritten copy of ``module`` for inputs ``[B, 3, height, width]``, and what changed."""
    copied = copy.deepcopy(module)
    dtype = next(copied.parameters()).dtype
    example = torch.zeros(1, 3, *size, dtype=dtype)
    with torch.no_grad():
        reports = tuple(apply(copied, example) for apply in CHAINS[format_])
    return copied.eval(), reports
