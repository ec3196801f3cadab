"""Which rewrites each format gets, in which order. The order matters where a comment says so."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from mnv4_deploy.exporters.rewrites.base import LayerGraph, Rewrite, RewriteReport
from mnv4_deploy.exporters.rewrites.cascaded_group_attention import (
    cga_for_onnx,
    cga_for_tflite,
)
from mnv4_deploy.exporters.rewrites.fold_batch_norm import fold_batch_norm
from mnv4_deploy.exporters.rewrites.fold_layer_scale import fold_layer_scale
from mnv4_deploy.exporters.rewrites.fold_pre_norm import fold_pre_norm
from mnv4_deploy.exporters.rewrites.fold_residual import fold_residual
from mnv4_deploy.exporters.rewrites.layer_norm import fold_layer_norm, layer_norm_for_tflite
from mnv4_deploy.exporters.rewrites.linear_attention import (
    linear_attention_for_onnx,
    linear_attention_for_tflite,
)
from mnv4_deploy.exporters.rewrites.mobile_mqa import (
    mqa_for_onnx,
    mqa_for_tflite,
    pool_queries_by_convolution,
)
from mnv4_deploy.exporters.rewrites.split_depthwise import split_depthwise

_FOLDS: tuple[Rewrite, ...] = (
    pool_queries_by_convolution,  # norms can be folded into a convolution, not into a pooling
    fold_batch_norm,
    fold_layer_scale,  # after the norm between it and its convolution has gone
    fold_pre_norm,
    fold_residual,
)
CHAINS: dict[str, tuple[Rewrite, ...]] = {
    "onnx": (*_FOLDS, mqa_for_onnx, cga_for_onnx, linear_attention_for_onnx),
    "tflite": (
        *_FOLDS,
        mqa_for_tflite,
        cga_for_tflite,
        fold_layer_norm,
        linear_attention_for_tflite,
        layer_norm_for_tflite,  # what is left of those that were folded, and the others
        split_depthwise,  # of whatever depthwise convolutions are left
    ),
}


@dataclass(frozen=True)
class Rewritten:
    """A rewritten copy of a module, what each rewrite did, and layer counts around them."""

    module: nn.Module
    reports: tuple[RewriteReport, ...]
    histogram_before: dict[str, int]
    histogram_after: dict[str, int]

    @property
    def float_modules(self) -> tuple[str, ...]:
        """Paths of the modules that int8 files keep in float, with all modules inside them."""
        return tuple(path for report in self.reports for path in report.float_modules)


def first_wrong(
    module: nn.Module, format_: str, size: tuple[int, int], is_right: Callable[[nn.Module], bool]
) -> str:
    """The name of the first rewrite after which a copy of ``module`` is not ``is_right``.

    Empty where all are right one after the other. For a chain that has been found wrong as a
    whole: the proof of each step takes a run of the network.
    """
    copied = copy.deepcopy(module).eval()
    example = torch.zeros(1, 3, *size, dtype=next(copied.parameters()).dtype)
    with torch.no_grad():
        for apply in CHAINS[format_]:
            report = apply(copied, example)
            if report.changed and not is_right(copied):
                return report.name
    return ""


def rewrite(module: nn.Module, format_: str, size: tuple[int, int]) -> Rewritten:
    """Rewrite a copy of ``module`` for inputs ``[B, 3, height, width]``."""
    copied = copy.deepcopy(module).eval()
    example = torch.zeros(1, 3, *size, dtype=next(copied.parameters()).dtype)
    before = LayerGraph.trace(copied, example).histogram()
    with torch.no_grad():
        reports = tuple(apply(copied, example) for apply in CHAINS[format_])
    return Rewritten(copied, reports, before, LayerGraph.trace(copied, example).histogram())
