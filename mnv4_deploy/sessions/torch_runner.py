"""Images through a PyTorch network."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mnv4_deploy.images.preprocessing import normalize
from mnv4_deploy.images.records import Pixels
from mnv4_deploy.sessions.feed import Array
from mnv4_deploy.sessions.outputs import joined, named
from mnv4_deploy.sessions.records import ModelRef


class TorchRunner:
    """A network in float32, one image after the other. Sets PyTorch's threads to one."""

    batch = 1

    def __init__(self, ref: ModelRef) -> None:
        import torch

        assert ref.source is not None
        torch.set_num_threads(1)
        self._spec = ref.preprocessing
        reference = ref.source.load()
        self._module = reference.module
        self._names = [output.name for output in reference.outputs]

    def outputs(self, images: Pixels) -> dict[str, Array]:
        """Every output for every image, ``[N, ...]``."""
        import torch

        parts = []
        with torch.inference_mode():
            for image in self.inputs(images):
                x = torch.from_numpy(image).permute(2, 0, 1)[None]
                found = named(self._module(x), self._names)
                parts.append({name: values.numpy() for name, values in found.items()})
        return joined(parts)

    def inputs(self, images: Pixels) -> npt.NDArray[np.float32]:
        """``[N, height, width, 3]``, normalised."""
        return normalize(images, self._spec)
