"""What the noise of a layer is that has little of it, though the outputs are sensitive to it."""

from __future__ import annotations

from mnv4_deploy.drift.causes.hypothesis import LayerContext
from mnv4_deploy.drift.causes.range_rules import clipped_activation
from mnv4_deploy.layers.records import Cause, LayerDrift, OutputEffect

# From this part on it is the weights that are to be mended, not the range of the output.
_MOSTLY_WEIGHTS = 0.5
# Our own scales, twice as wide for some channels, cost less.
_COARSER_DB = 6.5
_BYTE, _BYTE_LEVELS = 8, 256


def small_cause(layer: LayerDrift, effect: OutputEffect) -> Cause:
    """By what most of the layer's own noise is, as ``effect`` has it measured."""
    if effect.weights_share >= _MOSTLY_WEIGHTS:
        return _weights(layer, effect)
    clipped = clipped_activation(LayerContext(layer))
    if clipped is not None:
        return clipped.cause
    if layer.evidence.dynamic:
        return Cause(
            "dynamic quantization",
            f"Nothing is wrong with it; {100 * (1 - effect.weights_share):.0f} % of its noise is "
            "the rounding of what it reads, to 8 bits at run time.",
            "Keep it in float.",
        )
    if effect.rounding_share >= 1 - effect.rounding_share - effect.weights_share:
        return _output(layer, effect)
    return _rest(layer, effect)


def _weights(layer: LayerDrift, effect: OutputEffect) -> Cause:
    weights, evidence = 100 * effect.weights_share, layer.evidence
    here, there = evidence.weight_sqnr_db, evidence.rounded_weights_db
    if here is not None and there is not None and there > here + _COARSER_DB:
        return Cause(
            "coarse weights",
            f"{weights:.0f} % of its noise are its rounded weights: they are at {here:.1f} dB, "
            f"where 8 bits with a scale a channel leave {there:.1f} dB.",
            "Quantize the weights per channel in 8 bits.",
        )
    return Cause(
        "rounded weights",
        f"Nothing is wrong with it; {weights:.0f} % of its noise are its rounded weights.",
        "Keep it in float, or let a trial of --max-drop choose how its weights are rounded.",
    )


def _output(layer: LayerDrift, effect: OutputEffect) -> Cause:
    wide = layer.output is not None and layer.output.levels > _BYTE_LEVELS
    return Cause(
        "16-bit activations" if wide else "rounded activations",
        f"Nothing is wrong with its range; {100 * effect.rounding_share:.0f} % of its noise is "
        f"the rounding of its output to {2 * _BYTE if wide else _BYTE} bits.",
        "Keep it and what reads it in float.",
    )


def _rest(layer: LayerDrift, effect: OutputEffect) -> Cause:
    parts = (
        f"Nothing is wrong with it; {100 * effect.rounding_share:.0f} % of its noise is the "
        f"rounding of its output, {100 * effect.weights_share:.0f} % are its weights"
    )
    if not layer.inputs:
        return Cause(
            "rounded activations",
            f"{parts}, and the rest is the rounding of the network's input, which it reads.",
            "Keep it and the input in float.",
        )
    # Both read the same: what is left is how the kernel computes.
    return Cause(
        "kernel arithmetic",
        f"{parts}, and the rest is what its kernel computes otherwise, such as sums of 16 bits "
        "that saturate on x86 without VNNI.",
        "Keep it in float.",
    )
