"""Are the ranges of the whole model those of other images?"""

from __future__ import annotations

from collections.abc import Sequence

from mnv4_deploy.drift.causes.hypothesis import Hypothesis, name, same_range, scenes
from mnv4_deploy.drift.causes.range_rules import clipped_activation, unused_range
from mnv4_deploy.layers.records import Cause, LayerDrift

# A layer's range is wrong where this part of the values lies outside, and clipping them costs
# more than 25 dB. A sound Hybrid-M, calibrated by the average of 50 images, clips as much in one
# layer of eight (ONNX) to four (TFLite), one calibrated on noise in more than half.
_CLIPPED_PERCENT = 0.5
_MISFIT = 10**-2.5
# This part of the layers must be wrong before the images are to blame and not the layers.
_MOST = 0.5
# Fewer layers than this show no pattern.
_FEWEST = 4


def find_calibration_fault(layers: Sequence[LayerDrift]) -> Cause | None:
    """A cause where most layers' ranges do not fit the reference's values."""
    own = [
        context
        for context in scenes(layers)
        # A range taken over from the layer before says nothing new.
        if context.layer.output is not None
        and context.layer.isolated is not None
        and not any(same_range(context.layer, producer) for producer in context.producers)
    ]
    if len(own) < _FEWEST:
        return None
    clipped = [s.layer for s in own if _misfit(clipped_activation(s)) and _clips_many(s.layer)]
    unused = [s.layer for s in own if _misfit(unused_range(s))]
    if len(clipped) + len(unused) < _MOST * len(own):
        return None
    found = []
    if clipped:
        worst = max(clipped, key=_clipped_percent)
        found.append(
            f"{len(clipped)} of {len(own)} layers clip more than {_CLIPPED_PERCENT} % of the "
            f"values ({name(worst)} {_clipped_percent(worst):.2g} %)"
        )
    if unused:
        widest = min(unused, key=_used_percent)
        found.append(
            f"{len(unused)} of {len(own)} layers hardly use their range ({name(widest)} "
            f"{_used_percent(widest):.2g} % of it)"
        )
    return Cause(
        "calibration data",
        f"The ranges are not those of these images: {' and '.join(found)}.",
        "Calibrate on images like those in use, prepared in the same way, not on random data.",
    )


def _misfit(hypothesis: Hypothesis | None) -> bool:
    return hypothesis is not None and hypothesis.share >= _MISFIT


def _clips_many(layer: LayerDrift) -> bool:
    return _clipped_percent(layer) >= _CLIPPED_PERCENT


def _clipped_percent(layer: LayerDrift) -> float:
    return 0.0 if layer.output is None else layer.output.clipped_percent


def _used_percent(layer: LayerDrift) -> float:
    return 100.0 if layer.output is None else layer.output.used_percent
