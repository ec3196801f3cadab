"""What a PyTorch model computes for some images, to judge files by."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import nn

from mnv4_deploy.exporters import verify
from mnv4_deploy.exporters.records import Deviation
from mnv4_deploy.images.records import Pixels
from mnv4_deploy.models.records import LOGITS, OutputSpec, Preprocessing
from mnv4_deploy.sessions.outputs import Outputs


class ExpectedOutputs:
    """``outputs`` of ``module`` for 0..255 RGB images ``[N, H, W, 3]``, by name.

    ``single``, those in float32, are computed at once, the others when they are first needed.
    """

    def __init__(
        self,
        module: nn.Module,
        images: Pixels,
        spec: Preprocessing,
        outputs: Sequence[OutputSpec] = (LOGITS,),
        name: str = "PyTorch",
    ) -> None:
        self._module = module
        self._images = images
        self._spec = spec
        self._outputs = outputs
        self._name = name
        self.single = self._run(module)

    def _run(self, module: nn.Module, *, double: bool = False) -> Outputs:
        return verify.run_module(module, self._images, self._spec, self._outputs, double=double)

    @cached_property
    def _double(self) -> Outputs:
        module = copy.deepcopy(self._module).double()
        return self._run(module, double=True)

    @cached_property
    def _single_in_another_order(self) -> Outputs:
        """With torch's own kernels instead of oneDNN's, which sum in other orders."""
        with warnings.catch_warnings(action="ignore"), torch.backends.mkldnn.flags(enabled=False):
            return self._run(self._module)

    def compare(self, subject: str, actual: Outputs, tier: str) -> Deviation:
        """How far ``actual`` is off.

        A file that misses "float32" is held to what float32 can do: how far PyTorch's own is from
        float64. Which order of summation comes closest to that is chance (EfficientViT-M4 with
        random weights: 3.3e-4 or 5.7e-5 on one image), so the worse of two counts.
        """
        deviation = verify.compare(subject, self._name, actual, self.single, tier)
        if deviation.ok or tier != "float32":
            return deviation
        singles = (self.single, self._single_in_another_order)
        return verify.compare_to_float64(subject, actual, self._double, singles, tier)
