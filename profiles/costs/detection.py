"""What samples, chooses and transforms: grids, boxes, Fourier transforms.

How much work choosing boxes is depends on the values: what is counted is the least.
"""

from __future__ import annotations

import math

from mnv4_deploy.profiles.costs.work import Work, source, target
from mnv4_deploy.profiles.records.graph import ModelGraph, Operator

# Of a sample between 2 x 2 values, 4 x 4 values: products and additions.
_OPS_PER_SAMPLE = {"nearest": 0, "linear": 7, "bilinear": 7, "cubic": 31, "bicubic": 31}
_OPS_PER_SAMPLE_3D = {"nearest": 0, "linear": 15, "bilinear": 15}
_OPS_PER_COORDINATE = 4  # shift, scale, round down, what is left
# Intersection over union: four maxima or minima, two sides and their product of the common part,
# the sum of the areas less that, the quotient and a comparison.
_OPS_PER_OVERLAP = 11
# Of a box from its code: two centres of three, two sides of three, four corners of two.
_OPS_PER_BOX = 20
_FFT_OPS = 2.5  # times N log2 N, for real input


def grid_sample(graph: ModelGraph, op: Operator) -> Work:
    """ONNX: input [N,C,H,W] or [N,C,D,H,W], grid [N,h,w,2] or [N,d,h,w,3]."""
    grid = source(graph, op, 1)
    mode = str(op.attributes.get("mode", "linear"))
    ops = (_OPS_PER_SAMPLE if grid.shape[-1] == 2 else _OPS_PER_SAMPLE_3D)[mode]
    return Work(0, ops * target(graph, op).elements + _OPS_PER_COORDINATE * grid.elements)


def non_max_suppression(graph: ModelGraph, op: Operator) -> Work:
    """ONNX: boxes [N,B,4], scores [N,K,B], chosen [S,3]. Every score is compared with the
    threshold, and every chosen box with one other."""
    return Work(0, source(graph, op, 1).elements + _OPS_PER_OVERLAP * target(graph, op).shape[0])


def detection_postprocess(graph: ModelGraph, op: Operator) -> Work:
    """TFLite: codes [N,B,4], scores [N,B,K], anchors [B,4], chosen [N,S,4]. Every box is decoded,
    every score is looked at, and every chosen box is compared with one other."""
    codes, scores = source(graph, op), source(graph, op, 1)
    boxes, chosen = codes.elements // 4, target(graph, op).elements // 4
    return Work(0, _OPS_PER_BOX * boxes + scores.elements + _OPS_PER_OVERLAP * chosen)


def real_fft_2d(graph: ModelGraph, op: Operator) -> Work:
    """TFLite: input [...,H,W], result [...,H,W/2+1] of complex numbers."""
    *batch, height, half = target(graph, op).shape
    points = height * 2 * (half - 1)
    ops = _FFT_OPS * points * math.log2(points) if points > 1 else 0
    return Work(0, math.prod(batch) * round(ops))
