"""Is it the arithmetic that was chosen for the whole file, and not a layer of it?"""

from __future__ import annotations

from statistics import median

from mnv4_deploy.layers.records import Cause, LayerDrift, LayersDrift, WeightsTrial

# This part of the layers with quantized weights makes it the file's arithmetic.
_MOST = 0.5
# This part of the outputs' noise makes weights, or activations, the cause.
_MAKES = 0.5
# Beyond it the weights alone do more than the candidate does: they are other weights.
_POSSIBLE = 2.0
_BYTE, _BYTE_LEVELS = 8, 256


def find_few_bits(layers: LayersDrift) -> Cause | None:
    """Weights of less than 8 bits in most layers, where they make most of the drift.

    That is measured by running the reference with them, or told from the layers alone.
    """
    weighted = _weighted(layers)
    few = [layer for layer in weighted if (layer.evidence.weight_bits or _BYTE) < _BYTE]
    known = [db for layer in few if (db := layer.evidence.weight_sqnr_db) is not None]
    if not known or len(few) < _MOST * len(weighted):
        return None
    trial = layers.weights
    if trial is not None and trial.weights_share < _MAKES:
        return None
    bits = sorted({layer.evidence.weight_bits for layer in few if layer.evidence.weight_bits})
    what = (
        f"{len(few)} of {len(weighted)} layers with weights have them in "
        f"{' or '.join(map(str, bits))} bits, which leaves them at {min(known):.1f} to "
        f"{max(known):.1f} dB (half of them at less than {median(known):.1f} dB)."
    )
    return Cause("weights of few bits", f"{what}{_tried(trial)}", "Store the weights in 8 bits.")


def find_narrow_activations(layers: LayersDrift) -> Cause | None:
    """Dynamic quantization or 16-bit activations in most layers, where the weights are not it.

    Only a run of the reference with the candidate's weights can tell.
    """
    weighted, trial = _weighted(layers), layers.weights
    if trial is None or not trial.whole or trial.weights_share >= _MAKES:
        return None
    dynamic = [layer for layer in weighted if layer.evidence.dynamic]
    wide = [x for x in weighted if x.output is not None and x.output.levels > _BYTE_LEVELS]
    percent = 100 * (1 - trial.weights_share)
    measured = (
        f"with the candidate's weights alone the reference's outputs stay at "
        f"{trial.weights_db:.1f} dB, the candidate's are at {trial.sqnr_db:.1f} dB"
    )
    if weighted and len(dynamic) >= _MOST * len(weighted):
        return Cause(
            "dynamic quantization",
            f"{len(dynamic)} of {len(weighted)} layers with weights round what they read to 8 "
            f"bits at run time. That makes about {percent:.0f} % of the noise: {measured}.",
            "Keep the weights in 8 bits and compute in float (weight-only quantization).",
        )
    if weighted and len(wide) >= _MOST * len(weighted):
        clipped = sum(x.output is not None and x.output.clipped_percent > 0 for x in wide)
        return Cause(
            "16-bit activations",
            f"{len(wide)} of {len(weighted)} layers with weights leave activations of 16 bits, "
            f"and {clipped} of them clip values. That makes about {percent:.0f} % of the noise: "
            f"{measured}.",
            "Calibrate the ranges on images like those in use: 16 bits have room for all values.",
        )
    return None


def _weighted(layers: LayersDrift) -> list[LayerDrift]:
    return [layer for layer in layers.layers if layer.evidence.weight_scales]


def _tried(trial: WeightsTrial | None) -> str:
    if trial is None or trial.weights_share > _POSSIBLE:
        return ""
    return (
        f" With these weights in it the reference's outputs are at {trial.weights_db:.1f} dB (the "
        f"candidate's at {trial.sqnr_db:.1f} dB), with its own in 8 bits, a scale a channel, at "
        f"{trial.rounded_db:.1f} dB."
    )
