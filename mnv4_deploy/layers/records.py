"""Frozen records of ``drift`` layer by layer: figures, evidence, causes and their ranking.

No torch and no runtime: a device can load this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

# Of what happened to the outputs.
_ADDS_UP = 0.5


@dataclass(frozen=True)
class Agreement:
    """How far a tensor of the candidate is from the reference's. SQNR is capped at 200 dB."""

    sqnr_db: float
    cosine: float

    @property
    def noise_share(self) -> float:
        """Noise power over signal power."""
        return float(10 ** (-self.sqnr_db / 10))


@dataclass(frozen=True)
class RangeUse:
    """An integer tensor's range and how the reference's values fit it.

    ``low`` and ``high`` are the smallest and the largest number it can hold, ``seen_*`` the
    reference's extremes. ``used_percent``: the part of the range that the reference's values
    span. ``clipped_percent`` of the reference's values lie outside, and ``clipping_share`` (0..1)
    is the part of the squared error of ideal quantization that they cause, ``rounded_db`` what
    SQNR that quantization leaves them.
    """

    scale: float
    zero_point: int
    low: float
    high: float
    seen_low: float
    seen_high: float
    used_percent: float
    clipped_percent: float
    clipping_share: float
    rounded_db: float = 200.0

    @property
    def levels(self) -> int:
        """How many numbers there are: 256 of 8 bits."""
        return round((self.high - self.low) / self.scale) + 1


@dataclass(frozen=True)
class LayerEvidence:
    """What a cause can be told from; None and 0 where it does not apply.

    Channels are those of the layer's output. ``channel_peaks`` are max |reference| of each
    channel, ``weight_peaks`` max |weight| of each output channel of the *float* weights (the
    reference's where they are known, the candidate's dequantized ones otherwise),
    ``weight_scales`` the candidate's (one value: per-tensor). ``weight_sqnr_db`` is of the
    candidate's weights against the reference's, ``rounded_weights_db`` of the reference's own in 8
    bits with a scale a channel. ``weight_bits`` is what the candidate stores of each.
    ``dynamic``: the layer rounds what it reads to 8 bits at run time. ``weights_share`` is the
    part (0..1) of the layer's own noise that its weights make, measured with nothing else changed;
    None where it was not. ``bias_codes_max`` is max |int32 bias|, ``bias_error_share`` the part of
    the isolated squared error that is a constant offset per channel, ``gain_error_share`` the part
    that a factor accounts for: ``gain``, by which the layer's values are larger than the
    reference's. ``lost_channels`` have weights in the reference and none, or next to none, in the
    candidate. ``padding`` is the constant of a Pad, in real numbers.
    """

    channel_peaks: npt.NDArray[np.float64] | None = None
    weight_peaks: npt.NDArray[np.float64] | None = None
    weight_scales: tuple[float, ...] = ()
    weight_sqnr_db: float | None = None
    rounded_weights_db: float | None = None
    weight_bits: int | None = None
    dynamic: bool = False
    weights_share: float | None = None
    bias_codes_max: int | None = None
    bias_error_share: float = 0.0
    gain: float = 1.0
    gain_error_share: float = 0.0
    lost_channels: tuple[int, ...] = ()
    padding: float | None = None
    depthwise: bool = False


CauseKind = Literal[
    "outlier channel",
    "depthwise weight spread",
    "clipped activation",
    "unused range",
    "tiny scale",
    "bias overflow",
    "padding constant",
    "softmax or sigmoid range",
    "coarse weights",
    "weights of few bits",
    "dynamic quantization",
    "16-bit activations",
    "8-bit probabilities",
    "wrong scale",
    "lost channel",
    "rounded weights",
    "rounded activations",
    "kernel arithmetic",
    "accumulated noise",
    "channel order",
    "normalisation",
    "crop or interpolation",
    "class order",
    "output scale",
    "calibration data",
]


@dataclass(frozen=True)
class Cause:
    """Why a layer (or the whole model) lost precision, in one sentence with its figures.

    ``advice`` is "" where it was tried and won nothing, or was not tried though others were.
    """

    kind: CauseKind
    sentence: str
    advice: str


@dataclass(frozen=True)
class LayerDrift:
    """One layer of the candidate against the reference.

    ``module`` is its path in the PyTorch model ("" where the file does not tell), ``tensor`` and
    ``reference_tensor`` the compared outputs. ``accumulated``: both networks ran from the image.
    ``isolated``: this layer alone ran as the candidate has it, on the reference's inputs; None
    where those inputs have no counterpart. ``output`` is the range of the output tensor, None
    where it is float. ``compute`` as in ``OperatorFacts``. ``inputs`` are the ``index`` of
    the layers whose outputs this one reads (through conversions and operators that only move
    data): what a producer's range cut off shows in the isolated figure of its readers too, and
    causes need to know whom to blame.
    """

    index: int
    module: str
    kind: str
    compute: str
    tensor: str
    reference_tensor: str
    shape: tuple[int, ...]
    accumulated: Agreement
    isolated: Agreement | None
    output: RangeUse | None
    evidence: LayerEvidence
    cause: Cause | None = None
    inputs: tuple[int, ...] = ()

    @property
    def damage(self) -> float:
        """What layers are sorted by: the noise this layer alone adds, over its signal.

        Without an isolated figure that of the accumulated one, which counts the noise of the
        layers before too.
        """
        return (self.isolated or self.accumulated).noise_share


@dataclass(frozen=True)
class OutputEffect:
    """What the network's outputs gain where one layer is put back to float.

    ``layer`` indexes ``LayersDrift.layers``. ``gain_db``: it alone; ``total_gain_db``: with all
    that are ranked before it. Parts (0..1) of the layer's own noise: ``weights_share`` make its
    weights, measured where they are known, else all but ``rounding_share``, which is the rounding
    and clipping of its output.
    """

    layer: int
    gain_db: float
    total_gain_db: float
    weights_share: float
    rounding_share: float = 0.0


@dataclass(frozen=True)
class OutputTrial:
    """Outputs of a trial against the reference's.

    ``alike``: on how many images the largest of the output's values is the reference's; None
    where the output is not one row of values.
    """

    sqnr_db: float
    alike: int | None = None


@dataclass(frozen=True)
class OutputTrials:
    """What was won on ``images`` that chose nothing, where the first layers were mended.

    ``in_float``: each of them alone in float, unrounded for what reads it; ``together``: it and
    those before it; ``fitting_range``: it alone with a range from the reference's smallest to its
    largest value, None for float outputs; ``all_ranges``: all layers with such ranges.
    """

    images: int
    candidate: OutputTrial
    in_float: tuple[OutputTrial, ...]
    together: tuple[OutputTrial, ...]
    fitting_range: tuple[OutputTrial | None, ...]
    all_ranges: OutputTrial


@dataclass(frozen=True)
class LayerTrial:
    """What one entry of the ranking won on ``images`` that chose nothing; see ``OutputTrials``.

    One of ``in_float`` and ``fitting_range`` was tried.
    """

    images: int
    candidate: OutputTrial
    in_float: OutputTrial | None
    fitting_range: OutputTrial | None

    @property
    def mended(self) -> OutputTrial:
        return self.in_float or self.fitting_range or self.candidate

    @property
    def gain_db(self) -> float:
        return self.mended.sqnr_db - self.candidate.sqnr_db


@dataclass(frozen=True)
class OutputEffects:
    """Where the noise of the outputs comes from, found by disturbing the reference.

    ``ranked``: the layers whose mending gains most, each after those before it.
    ``explained_share``: the part (at most 1) of the outputs' noise power that the sum of what
    all layers do to them accounts for. ``tried``: what mending the first of ``ranked`` won; None
    where there were too few images, runs with noise are not the candidate's, or nothing adds up
    (noise of later layers is then not what it would be behind mended ones).
    """

    images: int
    sqnr_db: float
    explained_share: float
    ranked: tuple[OutputEffect, ...]
    tried: OutputTrials | None = None

    @property
    def adds_up(self) -> bool:
        """Whether the sum is most of what happened to the outputs, so that effects mean much."""
        return self.explained_share >= _ADDS_UP


@dataclass(frozen=True)
class WeightsTrial:
    """What became of the reference's outputs when it ran with other weights, in float.

    ``sqnr_db`` is of the candidate itself on these ``images``, ``weights_db`` of the reference
    with the candidate's weights in all of its ``layers``, ``rounded_db`` with its own weights
    rounded to 8 bits, a scale a channel. ``whole``: no quantized weights were left out.
    """

    images: int
    layers: int
    whole: bool
    sqnr_db: float
    weights_db: float
    rounded_db: float

    @property
    def weights_share(self) -> float:
        """The part of the outputs' noise power that the weights make; more than 1 is chance."""
        return float(10 ** ((self.sqnr_db - self.weights_db) / 10))


@dataclass(frozen=True)
class Diagnosis:
    """One entry of the ranking of what went wrong, worst first.

    ``layer`` indexes ``LayersDrift.layers``; None where the cause is not one layer's: then
    ``module`` is "input" (the two see different pixels), "output" (their outputs mean different
    things) or "all layers". ``effect``: what mending it would gain, None where that is not known.
    ``trial``: what it won when it was tried, None where it was not.
    """

    module: str
    layer: int | None
    cause: Cause
    effect: OutputEffect | None = None
    trial: LayerTrial | None = None


@dataclass(frozen=True)
class LayersDrift:
    """All layers in the order they run. ``ranking`` has the worst first.

    ``unmatched`` are outputs of the candidate's operators that have no counterpart. ``effects``:
    None where layers could not be run alone, or the reference's tensors are no float.
    ``weights``: None where the candidate's are not the reference's rounded. ``matters``: the
    outputs lost more than int8 always costs.
    """

    images: int
    layers: tuple[LayerDrift, ...]
    ranking: tuple[Diagnosis, ...]
    unmatched: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    effects: OutputEffects | None = None
    weights: WeightsTrial | None = None
    matters: bool = True

    def most_damaged(self, count: int) -> tuple[LayerDrift, ...]:
        """By :attr:`LayerDrift.damage`; layers that did not run alone come last."""
        ranked = sorted(self.layers, key=lambda layer: (layer.isolated is None, -layer.damage))
        return tuple(ranked[:count])
