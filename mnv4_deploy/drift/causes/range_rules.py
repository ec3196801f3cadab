"""Causes that lie in the range of a layer's output, or of what it reads."""

from __future__ import annotations

import math

import numpy as np

from mnv4_deploy.drift.causes.hypothesis import (
    DAMAGE,
    Hypothesis,
    LayerContext,
    decibels,
    live_peaks,
    noise_alone,
    rounding,
    signal_peak,
    span,
)
from mnv4_deploy.layers.records import LayerDrift

# The largest channel over the median one: from here on the median channel has 32 of 256 levels.
_OUTLIER_RATIO = 8.0
# Channels this close to the largest one are outliers with it.
_OUTLIER_SHARE = 1 / 4
_FEW = 1 / 8
# From this part on clipping is what a range costs.
_MOSTLY = 0.5
# Less than this wastes a bit or more of the eight.
_USED_PERCENT = 50.0
# A padded constant this many times the width of the values leaves them a fifth of the levels.
_PADDING_RATIO = 4.0
# What the kernels of TFLite use for a result of 0..1; twice that loses a bit.
_UNIT_STEP = 1 / 256
# Half a unit of a logit changes its probability by up to 12 points.
_LOGIT_STEP = 0.5
_UNIT_KINDS = frozenset({"softmax", "logsoftmax", "logistic", "sigmoid", "hardsigmoid"})


def outlier_channel(context: LayerContext) -> Hypothesis | None:
    """One or a few channels set the range, and the others get few levels of it."""
    layer, output, peaks = (
        context.layer,
        context.layer.output,
        context.layer.evidence.channel_peaks,
    )
    live = live_peaks(layer)
    if is_unit(layer):
        return None  # its range is 0..1 whatever its channels are
    if output is None or peaks is None or len(live) < 2 or output.used_percent < _USED_PERCENT:
        return None
    median = float(np.median(live))
    if live.max() < _OUTLIER_RATIO * median:
        return None
    few = np.flatnonzero(peaks >= _OUTLIER_SHARE * live.max())
    if len(few) > max(1.0, _FEW * len(live)):
        return None  # so many are no outliers
    rest = live[live < _OUTLIER_SHARE * live.max()]
    share = float(np.mean([rounding(output.scale, peak) for peak in rest]))
    if context.readers and all(reader.isolated is not None for reader in context.readers):
        # Readers show whether the small channels matter; that is measured, not estimated.
        own = rounding(output.scale, signal_peak(layer))
        share = min(share, max([own, *map(noise_alone, context.readers)]))
    named = ", ".join(map(str, few[:3])) + (" ..." if len(few) > 3 else "")
    levels = median / output.scale
    return Hypothesis(
        "outlier channel",
        share,
        f"{len(few)} of {len(peaks)} channels ({named}) set the range: they reach "
        f"{live.max():.3g}, the median channel {median:.3g}, which leaves it "
        f"{levels:.1f} of {output.levels} levels.",
        "Equalize the channels with the next layer's (a trial of --max-drop), or keep this layer "
        "in float.",
        of_range=True,
    )


def clipped_activation(context: LayerContext) -> Hypothesis | None:
    """Values outside the range cost more than rounding does."""
    output, layer = context.layer.output, context.layer
    if output is None or output.clipping_share < _MOSTLY:
        return None
    # Of ideal quantization, rounding makes what clipping does not; it is known from the scale.
    odds = output.clipping_share / max(1 - output.clipping_share, 1e-12)
    share = min(rounding(output.scale, signal_peak(layer)) * odds, context.measured)
    return Hypothesis(
        "clipped activation",
        share,
        f"{output.clipped_percent:.2g} % of the values lie outside "
        f"{output.low:.3g}..{output.high:.3g} (they reach {output.seen_low:.3g}.."
        f"{output.seen_high:.3g}), and clipping them makes "
        f"{100 * output.clipping_share:.0f} % of the error.",
        "Calibrate with images in which these values occur; export --max-drop tries other ranges "
        "and keeps one that pays.",
        of_range=True,
    )


def unused_range(context: LayerContext) -> Hypothesis | None:
    """The range is far wider than the values."""
    output, layer = context.layer.output, context.layer
    if output is None or output.used_percent >= _USED_PERCENT or is_unit(layer):
        return None
    waste = 1 - (output.used_percent / 100) ** 2
    share = min(rounding(output.scale, signal_peak(layer)) * waste, max(context.measured, DAMAGE))
    return Hypothesis(
        "unused range",
        share,
        f"The values use {output.used_percent:.2g} % of the range {output.low:.3g}.."
        f"{output.high:.3g} (they lie in {output.seen_low:.3g}..{output.seen_high:.3g}): "
        f"{span(layer) / output.scale:.1f} of {output.levels} levels.",
        "Calibrate on images like those in use; export --max-drop tries other ranges and keeps "
        "one that pays.",
        of_range=True,
    )


def padding_constant(context: LayerContext) -> Hypothesis | None:
    """A constant that stands for minus infinity takes the range."""
    layer, padding = context.layer, context.layer.evidence.padding
    if padding is None or padding == 0:
        return None
    width = max((span(producer) for producer in context.producers), default=0.0)
    if not _is_pad(layer):
        width = width or span(layer)
    if math.isfinite(padding) and not (0 < _PADDING_RATIO * width < abs(padding)):
        return None
    output = layer.output
    if output is None or not _is_pad(layer):  # the Pad is inside of what is compared here
        share, levels = context.measured, ""
    else:
        share = rounding(output.scale, width / 2) if width else 1.0
        levels = f": {width / output.scale:.2g} of {output.levels} levels are left for them"
    return Hypothesis(
        "padding constant",
        share,
        f"It pads values that span {width:.3g} with {padding:.3g}{levels}.",
        "Pad with the smallest value that occurs (0 behind a ReLU), or let the pooling layer pad.",
        of_range=True,
    )


def unit_result(context: LayerContext) -> Hypothesis | None:
    """A softmax or sigmoid whose result, or whose argument, has too coarse steps."""
    layer, output = context.layer, context.layer.output
    if not is_unit(layer):
        return None
    kind = layer.kind.lower().replace("logistic", "sigmoid")
    if output is not None and output.scale > 2 * _UNIT_STEP:
        return Hypothesis(
            "softmax or sigmoid range",
            context.measured,
            f"The {kind}'s result of 0..1 has steps of {output.scale:.3g} (1/256 would do), which "
            f"alone costs {decibels(context.measured)}.",
            "Give its result the scale 1/256 and the zero point of 0.0, or keep it in float.",
        )
    for logits in (producer.output for producer in context.producers):
        if logits is not None and logits.scale > _LOGIT_STEP:
            return Hypothesis(
                "softmax or sigmoid range",
                context.measured,
                f"Its logits span {logits.seen_low:.3g}..{logits.seen_high:.3g}, so that "
                f"they have steps of {logits.scale:.2g}, and the {kind} of them is wrong by "
                f"{decibels(context.measured)}.",
                "Keep the layer before it and this one in float, or clip the logits to -16..16.",
            )
    return None


def probabilities(context: LayerContext) -> Hypothesis | None:
    """A softmax over many classes whose result has steps of 1/256."""
    layer, output = context.layer, context.layer.output
    if _plain(layer.kind) != "softmax" or output is None or output.clipping_share >= _MOSTLY:
        return None
    return Hypothesis(
        "8-bit probabilities",
        min(1.0, 10 ** (-output.rounded_db / 10)),
        f"Its probabilities have steps of {output.scale:.3g}, so that those below "
        f"{output.scale / 2:.2g} are 0: rounding the reference's alone leaves them at "
        f"{output.rounded_db:.1f} dB.",
        "Take the logits as output, which have a scale of their own and the same order, or keep "
        "the softmax in float.",
    )


def is_unit(layer: LayerDrift) -> bool:
    """Whether the layer's values lie in 0..1 by its kind."""
    return _plain(layer.kind) in _UNIT_KINDS


def _plain(kind: str) -> str:
    return kind.replace("_", "").lower().removeprefix("qlinear")


def _is_pad(layer: LayerDrift) -> bool:
    return _plain(layer.kind).startswith("pad") or _plain(layer.kind) == "mirrorpad"
