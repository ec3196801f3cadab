"""What the parts of the layer comparison pass to each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from mnv4_deploy.images.records import Pixels
from mnv4_deploy.models.records import Preprocessing

Array = npt.NDArray[Any]
Format = Literal["torch", "onnx", "tflite"]
# Tensors are known by their index in the ModelGraph of the network.
Values = Mapping[int, Array]


@dataclass(frozen=True)
class Quantization:
    """Of a tensor with one scale: ``real = (code - zero_point) * scale``."""

    scale: float
    zero_point: int
    dtype: str

    @property
    def codes(self) -> tuple[int, int]:
        """The smallest and the largest code."""
        info = np.iinfo(self.dtype)
        return int(info.min), int(info.max)

    @property
    def low(self) -> float:
        return (self.codes[0] - self.zero_point) * self.scale

    @property
    def high(self) -> float:
        return (self.codes[1] - self.zero_point) * self.scale

    def quantize(self, values: Array) -> Array:
        """The codes of real ``values``: rounded half to even, clipped to the type."""
        codes = np.rint(values.astype(np.float64) / self.scale) + self.zero_point
        clipped: Array = np.clip(codes, *self.codes)
        return clipped.astype(self.dtype)

    def dequantize(self, codes: Array) -> Array:
        real: Array = codes.astype(np.float32) - np.float32(self.zero_point)
        real *= np.float32(self.scale)
        return real


@dataclass(frozen=True)
class NetworkLayer:
    """An operator with what runs behind it for itself alone (activation, conversions).

    ``op`` and ``output`` index the graph: the operator, and the tensor that the layer leaves.
    ``sources`` are the outputs of other layers, or inputs of the network, that it reads, seen
    through operators that only move data. ``family`` is what its kind is called in any format.
    ``mergeable``: another format may do its work within the operator that reads it (a Pad, or
    a product whose only reader adds a constant: that may be in either's bias).
    """

    op: int
    kind: str
    family: str
    module: str
    output: int
    name: str
    sources: tuple[int, ...]
    quantization: Quantization | None
    mergeable: bool = False


@dataclass(frozen=True)
class Weights:
    """A layer's weights as real numbers ``[out, in, height, width]`` or ``[out, in]``.

    ``scales`` is empty for float weights, ``bits`` is what a stored one has; ``bias_codes_max``
    is None where the bias is no integer. ``dynamic``: the layer rounds what it reads to 8 bits,
    with a scale that it finds at run time.
    """

    values: npt.NDArray[np.float32]
    scales: tuple[float, ...] = ()
    bias_codes_max: int | None = None
    depthwise: bool = False
    bits: int = 32
    dynamic: bool = False


Isolated = Callable[[Values], dict[int, Array]]
# From the network's inputs, as ``feed`` makes them, and the noise of each tensor to its outputs.
Disturbed = Callable[[Values, Values], tuple[Array, ...]]
# From the network's inputs to its outputs, with other weights in it.
Reweighed = Callable[[Values], tuple[Array, ...]]


class Network(Protocol):
    """A network that shows its intermediate tensors. Values are real numbers in float32."""

    format: Format
    layers: tuple[NetworkLayer, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def feed(self, pixels: Pixels, spec: Preprocessing) -> Values:
        """The network's inputs for one image ``[H, W, 3]``, in the types it takes."""
        ...

    def run(self, feed: Values) -> dict[int, Array]:
        """The output of every layer and of the network."""
        ...

    def plain(self, pixels: Pixels, spec: Preprocessing) -> tuple[Array, ...]:
        """The network's outputs for one image where nothing but the outputs is asked for."""
        ...

    def isolate(
        self,
        cut: Mapping[int, Array],
        outputs: Sequence[int],
        weights: Mapping[int, Array] | None = None,
    ) -> Isolated:
        """A function from values of the tensors ``cut`` to ``outputs``.

        The readers of a tensor in ``cut`` read the given value, quantized as the network has
        it, instead of what the network computes. The arrays in ``cut`` are examples. The
        network's inputs are given as well, as ``feed`` makes them; ``weights`` as in
        ``reweighed``.
        """
        ...

    def disturb(self, examples: Mapping[int, Array]) -> Disturbed:
        """A function to the network's outputs where noise is added to float tensors.

        ``examples`` are arrays like the noise. What reads such a tensor, or is given it as an
        output, gets it with its noise; tensors without any are as they were.
        """
        ...

    def reweighed(self, weights: Mapping[int, Array]) -> Reweighed:
        """A function to the network's outputs with other weights in some layers.

        ``weights`` are by the output of layers with float weights, shaped like ``Weights.values``.
        """
        ...

    def weights(self, layer: NetworkLayer) -> Weights | None:
        """None for a layer without constant weights, or with weights of an unusual type."""
        ...

    def padding(self, layer: NetworkLayer) -> float | None:
        """The constant that a Pad fills in, as a real number."""
        ...
