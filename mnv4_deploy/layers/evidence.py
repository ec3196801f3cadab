"""Figures about one layer from which the cause of its damage can be told."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mnv4_deploy.decibels import decibels
from mnv4_deploy.layers.join import Match
from mnv4_deploy.layers.layer import Network, NetworkLayer, Weights
from mnv4_deploy.layers.records import LayerEvidence
from mnv4_deploy.layers.tally import AgreementTally, ChannelTally

# A channel has weights from this part of the median channel's on, and has lost them where less
# than this part of its own is left.
_PRESENT, _LEFT = 0.05, 0.05
_LARGEST_CODE = 127


def gather_evidence(
    layer: NetworkLayer,
    match: Match,
    reference: Network,
    candidate: Network,
    channels: ChannelTally,
    isolated: AgreementTally | None,
    padding: float | None,
) -> LayerEvidence:
    """Of one layer of ``candidate``; ``channels`` has seen the reference's values."""
    gain, gain_error_share = (1.0, 0.0) if isolated is None else isolated.gain
    mine = candidate.weights(layer)
    theirs = reference_weights(match, reference)
    known = theirs if theirs is not None else None if mine is None else mine.values
    return LayerEvidence(
        channel_peaks=channels.peaks,
        weight_peaks=None if known is None else _peaks(known),
        weight_scales=() if mine is None else mine.scales,
        weight_sqnr_db=None if mine is None or theirs is None else _sqnr(theirs, mine.values),
        rounded_weights_db=None if theirs is None else _sqnr(theirs, rounded_weights(theirs)),
        weight_bits=mine.bits if mine is not None and mine.scales else None,
        dynamic=mine is not None and mine.dynamic,
        bias_codes_max=None if mine is None else mine.bias_codes_max,
        bias_error_share=channels.offset_share,
        gain=gain,
        gain_error_share=gain_error_share,
        lost_channels=() if mine is None or theirs is None else _lost(theirs, mine.values),
        padding=padding,
        depthwise=mine is not None and mine.depthwise,
    )


def reference_weights(match: Match, reference: Network) -> npt.NDArray[np.float32] | None:
    """Of the layers that ``match`` joins, one behind the other; None where some have none."""
    layers = {layer.output: layer for layer in reference.layers}
    parts: list[Weights | None] = [reference.weights(layers[t]) for t in match.tensors]
    values = [part.values for part in parts if part is not None]
    if len(values) < len(parts) or len({v.shape[1:] for v in values}) > 1:
        return None
    whole = np.concatenate(values)
    return whole if match.channels is None else whole[slice(*match.channels)]


def _lost(
    reference: npt.NDArray[np.float32], candidate: npt.NDArray[np.float32]
) -> tuple[int, ...]:
    """Output channels of which the candidate has next to no weights left."""
    if reference.shape != candidate.shape:
        return ()
    theirs, mine = _peaks(reference), _peaks(candidate)
    present = theirs > _PRESENT * np.median(theirs)
    return tuple(map(int, np.flatnonzero(present & (mine < _LEFT * theirs))))


def _peaks(weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    peaks: npt.NDArray[np.float32] = np.abs(weights.reshape(len(weights), -1)).max(axis=1)
    return peaks.astype(np.float64)


def rounded_weights(weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """In 8 bits, symmetric, with a scale for each of the output channels, which come first."""
    peaks = np.abs(weights).max(axis=tuple(range(1, weights.ndim)), keepdims=True)
    steps = np.where(peaks > 0, peaks / _LARGEST_CODE, 1).astype(np.float32)
    rounded: npt.NDArray[np.float32] = np.rint(weights / steps) * steps
    return rounded


def alike(reference: npt.NDArray[np.float32], candidate: npt.NDArray[np.float32]) -> bool:
    """Whether the two can be the same weights in the same order."""
    return [n for n in reference.shape if n > 1] == [n for n in candidate.shape if n > 1]


def _sqnr(reference: npt.NDArray[np.float32], candidate: npt.NDArray[np.float32]) -> float | None:
    if not alike(reference, candidate):
        return None
    signal = reference.ravel().astype(np.float64)
    noise = candidate.ravel() - signal
    return decibels(float(signal @ signal), float(noise @ noise))
