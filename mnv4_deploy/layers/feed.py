"""One image as the input of a model file."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mnv4_deploy.layers.layer import Array
from mnv4_deploy.models.records import Preprocessing
from mnv4_deploy.sessions.image_runner import ArtifactRunner


def feed_image(
    runner: ArtifactRunner, pixels: npt.NDArray[np.uint8], spec: Preprocessing
) -> Array:
    """``pixels`` ``[H, W, 3]`` as ``runner`` feeds them, repeated to fill the file's batch."""
    runner.spec = spec
    return runner.feed(np.broadcast_to(pixels, (runner.batch, *pixels.shape)))


def image_shape(shape: tuple[int, ...], spec: Preprocessing) -> tuple[int, ...]:
    """An input's shape with the size of ``spec``'s images; one image where that is open (-1)."""
    batch = shape[0] if shape[0] > 0 else 1
    sides = (spec.height, spec.width)
    return (batch, *sides, 3) if shape[-1] == 3 else (batch, 3, *sides)
