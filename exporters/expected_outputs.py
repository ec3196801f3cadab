"""What a PyTorch model computes for some images, to judge files by."""

from __future__ import annotations

import copy
import warnings
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from mnv4_deploy.exporters import verify
from mnv4_deploy.exporters.records import Deviation
from mnv4_deploy.models.records import Preprocessing
from mnv4_deploy.sessions.image_runner import Outputs, Pixels


class ExpectedOutputs:
    """Outputs ``[N, classes]`` of ``module`` for 0..255 RGB images ``[N, H, W, 3]``.

    ``single``, those in float32, are computed at once, the others when they are first needed.
    """

    def __init__(
        self, module: nn.Module, images: Pixels, spec: Preprocessing, name: str = "PyTorch"
    ) -> None:
        self._module = module
        self._images = images
        self._spec = spec
        self._name = name
        self.single = verify.run_module(module, images, spec)

    @cached_property
    def half(self) -> npt.NDArray[np.float64]:
        """With all parameters rounded to float16, computed in float32."""
        module = copy.deepcopy(self._module)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(parameter.half())
        return verify.run_module(module, self._images, self._spec)

    @cached_property
    def _double(self) -> npt.NDArray[np.float64]:
        module = copy.deepcopy(self._module).double()
        return verify.run_module(module, self._images, self._spec, double=True)

    @cached_property
    def _single_in_another_order(self) -> npt.NDArray[np.float64]:
        """With torch's own kernels instead of oneDNN's, which sum in other orders."""
        with warnings.catch_warnings(action="ignore"), torch.backends.mkldnn.flags(enabled=False):
            return verify.run_module(self._module, self._images, self._spec)

    def compare(self, subject: str, actual: Outputs, tier: str) -> Deviation:
        """How far ``actual`` is off.

        A file that misses ``close`` is held to what float32 can do: how far PyTorch's own is from
        float64. Which order of summation comes closest to that is chance (EfficientViT-M4 with
        random weights: 3.3e-4 or 5.7e-5 on one image), so the worse of two counts.
        """
        deviation = verify.compare(subject, self._name, actual, self.single, tier)
        if deviation.ok or tier != "close":
            return deviation
        singles = (self.single, self._single_in_another_order)
        return verify.compare_to_float64(subject, actual, self._double, singles, tier)
