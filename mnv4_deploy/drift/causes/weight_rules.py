"""Causes that lie in a layer's weights and bias."""

from __future__ import annotations

import numpy as np

from mnv4_deploy.drift.causes.hypothesis import (
    DAMAGE,
    WEIGHT_CREST,
    Hypothesis,
    LayerContext,
    decibels,
    rounding,
)

_INT32_MAX = 2**31 - 1
# A bias of this size is one product away from the end of int32.
_NEARLY_INT32 = 2**30
# Largest over median channel: with one scale for all the median channel has 16 of 128 levels.
_SPREAD = 8.0
# Seven bits a channel give about 37 dB.
_COARSE_DB = 28.0
# Worse than three bits: then they are other weights, not rounded ones.
_OTHER_DB = 10.0
_BYTE = 8
_MOST = 0.5
# A channel whose scale is this small beside the median one has no weights to speak of.
_TINY = 1e-6
# From here on an error is mostly a constant of each channel, as a wrong bias makes.
_OFFSET = 0.3
# An error is one factor where that makes this part of it, and is no rounding from here on.
_FACTOR_SHARE, _FACTOR = 0.9, 0.03
# A layer that is smaller than this computes nothing, for whatever reason.
_NOTHING = 0.05


def depthwise_spread(context: LayerContext) -> Hypothesis | None:
    """One scale for depthwise channels of very different size."""
    evidence = context.layer.evidence
    peaks, scales = evidence.weight_peaks, evidence.weight_scales
    if not evidence.depthwise or peaks is None or not _per_tensor(scales):
        return None
    live = peaks[peaks > 0]
    if not len(live) or live.max() < _SPREAD * np.median(live):
        return None
    share = float(np.mean([rounding(scales[0], peak, WEIGHT_CREST) for peak in live]))
    return Hypothesis(
        "depthwise weight spread",
        share,
        f"One scale serves {len(peaks)} depthwise channels whose largest weights go from "
        f"{live.min():.3g} to {live.max():.3g}: the median channel has "
        f"{np.median(live) / scales[0]:.1f} of {2 ** ((evidence.weight_bits or _BYTE) - 1) - 1} "
        "levels.",
        "Quantize the weights per channel, or equalize the channels (a trial of --max-drop).",
    )


def lost_channel(context: LayerContext) -> Hypothesis | None:
    """Channels without weights, though each has a scale of its own."""
    evidence = context.layer.evidence
    lost, scales = evidence.lost_channels, evidence.weight_scales
    if not lost or (len(scales) > 0 and _per_tensor(scales)) or evidence.weight_peaks is None:
        return None
    first, more = lost[0], f" and {len(lost) - 1} more" if len(lost) > 1 else ""
    return Hypothesis(
        "lost channel",
        context.measured,
        f"Channel {first}{more} of {len(evidence.weight_peaks)} has no weights left; the "
        f"reference's reach {evidence.weight_peaks[first]:.3g}.",
        "Compare the weights of both files: this is no rounding.",
    )


def wrong_scale(context: LayerContext) -> Hypothesis | None:
    """All values are larger, or smaller, by one factor."""
    evidence = context.layer.evidence
    off = evidence.gain > _NOTHING and abs(evidence.gain - 1) >= _FACTOR
    if not off or evidence.gain_error_share < _FACTOR_SHARE:
        return None
    return Hypothesis(
        "wrong scale",
        context.measured * evidence.gain_error_share,
        f"Its values are {evidence.gain:.3g} times the reference's, which makes "
        f"{100 * evidence.gain_error_share:.0f} % of its error ({decibels(context.measured)}).",
        f"Divide its scale (of the output, or of the weights) by {evidence.gain:.3g}.",
    )


def few_bits(context: LayerContext) -> Hypothesis | None:
    """Weights that are stored in less than 8 bits."""
    evidence = context.layer.evidence
    bits, sqnr = evidence.weight_bits, evidence.weight_sqnr_db
    if bits is None or bits >= _BYTE or sqnr is None:
        return None
    more = evidence.rounded_weights_db
    would = "" if more is None else f", where 8 bits with a scale a channel leave {more:.1f} dB"
    return Hypothesis(
        "weights of few bits",
        min(1.0, 10 ** (-sqnr / 10)),
        f"Its weights have {bits} bits, which leaves them at {sqnr:.1f} dB{would}.",
        "Store this layer's weights in 8 bits.",
    )


def dynamic_rounding(context: LayerContext) -> Hypothesis | None:
    """What a layer reads is rounded at run time, and that costs more than its weights do."""
    evidence = context.layer.evidence
    if not evidence.dynamic or evidence.weights_share is None:
        return None
    reading = 1 - evidence.weights_share
    if reading < _MOST:
        return None
    return Hypothesis(
        "dynamic quantization",
        context.measured * reading,
        "It rounds what it reads to 8 bits at run time, from each image's smallest to its largest "
        f"value, which makes {100 * reading:.0f} % of its noise "
        f"({decibels(context.measured)}).",
        "Keep this layer in float, or its weights only in 8 bits.",
    )


def coarse_weights(context: LayerContext) -> Hypothesis | None:
    """Weights that lost much in rounding, or that never were the reference's."""
    sqnr, scales = context.layer.evidence.weight_sqnr_db, context.layer.evidence.weight_scales
    if sqnr is None or sqnr >= _COARSE_DB or not scales or few_bits(context) is not None:
        return None
    if lost_channel(context) is not None or wrong_scale(context) is not None:
        return None  # which say how the weights differ
    if sqnr < _OTHER_DB:
        what = "which is no rounding: they are other weights"
        advice = "Compare files that were made from the same weights and for the same input."
    else:
        shared = "one scale for all channels" if _per_tensor(scales) else "a scale a channel"
        what = f"with {shared}"
        advice = "Quantize the weights per channel in 8 bits, or keep this layer in float."
    return Hypothesis(
        "coarse weights",
        min(1.0, 10 ** (-sqnr / 10)),
        f"Its weights are within {sqnr:.1f} dB of the reference's, {what}.",
        advice,
    )


def bias_overflow(context: LayerContext) -> Hypothesis | None:
    """The bias does not fit into int32 in units of input scale times weight scale."""
    evidence = context.layer.evidence
    codes = evidence.bias_codes_max
    if codes is None or context.measured < DAMAGE:
        return None
    nearly = codes >= _NEARLY_INT32 and evidence.bias_error_share >= _OFFSET
    if codes < _INT32_MAX and not nearly:
        return None
    end = "is at the end of" if codes >= _INT32_MAX else "nearly fills"
    return Hypothesis(
        "bias overflow",
        context.measured,
        f"A bias of {codes} steps {end} int32: {100 * evidence.bias_error_share:.0f} % of the "
        f"layer's error ({decibels(context.measured)}) is a constant per channel.",
        "Remove channels with next to no weights or fold their constant into the next layer's "
        "bias, or keep this layer in float.",
    )


def tiny_scale(context: LayerContext) -> Hypothesis | None:
    """A channel, or the whole output, has a scale too small to compute with."""
    evidence, output = context.layer.evidence, context.layer.output
    scales = np.array([s for s in evidence.weight_scales if s > 0])
    if output is not None and 0 < output.scale < np.finfo(np.float32).tiny:
        what, share = f"Its output has a scale of {output.scale:.3g}", context.measured
    elif len(scales) > 1 and scales.min() < _TINY * np.median(scales):
        if evidence.bias_error_share < _OFFSET:
            return None
        what = (
            f"A channel has a weight scale of {scales.min():.3g}, the median one "
            f"{np.median(scales):.3g}"
        )
        share = context.measured * evidence.bias_error_share
    else:
        return None
    return Hypothesis(
        "tiny scale",
        share,
        f"{what}: {100 * evidence.bias_error_share:.0f} % of the layer's error "
        f"({decibels(context.measured)}) is a constant per channel.",
        "Remove the channels that have next to no weights, or keep this layer in float.",
    )


def _per_tensor(scales: tuple[float, ...]) -> bool:
    return len(scales) > 0 and len(set(scales)) == 1
