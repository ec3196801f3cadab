"""Images as the inputs of a model file, in its own type, layout and batch size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.images.preprocessing import normalize
from mnv4_deploy.images.records import Pixels
from mnv4_deploy.models.records import Preprocessing
from mnv4_deploy.profiles.records.files import TensorFacts
from mnv4_deploy.sessions.quantization import scale_of

Array = npt.NDArray[Any]
INPUT_TYPES = ("float32", "int8", "uint8", "int16", "uint16")
_LIMITS = {
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-32768, 32767),
    "uint16": (0, 65535),
}
_CHANNELS = 3


class ImageFeed:
    """Makes what goes in. ``batch`` is the file's (1 where it is free), ``layout`` NHWC or NCHW.

    ``fixed`` are the values of inputs that take no image, by name. Raises UnsupportedError for a
    file whose image input cannot be told, or that has other inputs without a value.
    """

    def __init__(
        self,
        inputs: Sequence[TensorFacts],
        spec: Preprocessing,
        fixed: Mapping[str, Array] = MappingProxyType({}),
    ) -> None:
        free = [tensor for tensor in inputs if tensor.name not in fixed]
        images = [tensor for tensor in free if _takes_image(tensor)]
        if len(free) != 1 or len(images) != 1:
            raise UnsupportedError(
                f"Of the inputs {', '.join(tensor.described for tensor in free) or 'none'} one "
                "must take RGB images and the others need values: give a file that takes an image."
            )
        self.spec = spec
        self._inputs, self._fixed, self._source = tuple(inputs), fixed, images[0]
        shape = self._source.shape
        self.layout = "NHWC" if shape[-1] == _CHANNELS else "NCHW"
        self.batch = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else 1

    def arrays(self, images: Pixels) -> tuple[Array, ...]:
        """One array an input, for a full batch of 0..255 RGB ``[N, H, W, 3]``."""
        ready = self._quantized(images)
        if self.layout == "NCHW":
            ready = ready.transpose(0, 3, 1, 2)
        ready = np.ascontiguousarray(ready, dtype=self._source.dtype)
        return tuple(
            ready if tensor is self._source else self._fixed[tensor.name]
            for tensor in self._inputs
        )

    def one(self, image: Pixels) -> tuple[Array, ...]:
        """The same for one image ``[H, W, 3]``, repeated to fill the batch."""
        return self.arrays(np.broadcast_to(image, (self.batch, *image.shape)))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of the image input by its name, with the size of ``spec``'s images."""
        sides = (self.spec.height, self.spec.width)
        nhwc, nchw = (self.batch, *sides, _CHANNELS), (self.batch, _CHANNELS, *sides)
        return {self._source.name: nhwc if self.layout == "NHWC" else nchw}

    def seen(self, images: Pixels) -> npt.NDArray[np.float32]:
        """What the network sees: ``[N, H, W, 3]`` float32, normalised, as its input type holds it.

        A file that takes pixels and normalises them itself sees them normalised, too.
        """
        if self._source.dtype == "float32" or self.takes_pixels:
            return normalize(images, self.spec)
        scale, zero_point = scale_of(self._source)
        return ((self._quantized(images) - zero_point) * scale).astype(np.float32)

    @property
    def takes_pixels(self) -> bool:
        """Whether 0..255 go in as they are.

        So it is for uint8 without a scale or with 1/255 (the file normalises), and where
        normalising and quantizing cancel but for rounding, as in files of TensorFlow.
        """
        scale, zero_point = scale_of(self._source)
        if self._source.dtype != "uint8":
            return False
        if scale == 0 or (abs(scale - 1 / 255) < 1e-7 and zero_point == 0):
            return True
        ends = np.array([0.0, 255.0])[:, None]
        codes = (ends / 255 - self.spec.mean) / self.spec.std / scale + zero_point
        return bool(np.abs(codes - ends).max() <= 0.5001)

    def _quantized(self, images: Pixels) -> Array:
        if self.takes_pixels:
            return images
        ready = normalize(images, self.spec)
        if self._source.dtype == "float32":
            return ready
        scale, zero_point = scale_of(self._source)
        return np.clip(np.round(ready / scale + zero_point), *_LIMITS[self._source.dtype])


def batches(images: Pixels, size: int) -> Iterator[tuple[Pixels, int]]:
    """Batches of a fixed size and how many of each are real; the last is filled up."""
    for start in range(0, len(images), size):
        chunk = images[start : start + size]
        missing = size - len(chunk)
        full = np.concatenate([chunk, chunk[-1:].repeat(missing, 0)]) if missing else chunk
        yield full, len(chunk)


def _takes_image(tensor: TensorFacts) -> bool:
    shape = tensor.shape
    return tensor.dtype in INPUT_TYPES and len(shape) == 4 and _CHANNELS in (shape[1], shape[3])
