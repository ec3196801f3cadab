"""Anything that takes images, loaded: PyTorch, onnxruntime and LiteRT behind one interface.

Every runner computes on one thread, in the batch size that its file has (else 1), so that an
image's outputs depend neither on its neighbours nor on how a data set was cut.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mnv4_deploy.images.records import Pixels
from mnv4_deploy.sessions.feed import Array
from mnv4_deploy.sessions.records import ModelRef


class LoadedModel(Protocol):
    """A network or a file, loaded."""

    @property
    def batch(self) -> int:
        """How many images go through at once."""

    def outputs(self, images: Pixels) -> dict[str, Array]:
        """Every output by name, ``[N, ...]`` for 0..255 RGB ``[N, height, width, 3]``."""

    def inputs(self, images: Pixels) -> npt.NDArray[np.float32]:
        """What the network sees of them: ``[N, height, width, 3]``, normalised.

        For a file with an 8-bit input these are the values that its codes stand for.
        """


def open_runner(ref: ModelRef) -> LoadedModel:
    """Load ``ref``. Its file should have passed ``open_model_ref``, in which a runtime that
    crashes does no harm.

    Raises WeightsError and UnknownModelError for a PyTorch network that cannot be loaded,
    ModelFileError for a file that its runtime does not accept.
    """
    if ref.kind == "torch":
        from mnv4_deploy.sessions.torch_runner import TorchRunner

        return TorchRunner(ref)
    from mnv4_deploy.sessions.image_runner import open_image_runner

    return open_image_runner(Path(ref.path), ref.preprocessing)


def try_out(ref: ModelRef) -> dict[str, tuple[int, ...]]:
    """Run one grey image through a file, in a child process: the shapes of its outputs.

    Raises ModelFileError for a file its runtime cannot run.
    """
    spec = ref.preprocessing
    grey = np.full((1, spec.height, spec.width, 3), 128, np.uint8)
    outputs = open_runner(ref).outputs(grey)
    return {name: values.shape for name, values in outputs.items()}
