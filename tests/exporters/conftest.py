"""TFLite files that many tests share: each conversion takes seconds, so there are two."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from mnv4_deploy.models.weights import ReferenceModel, load_reference


@dataclass(frozen=True)
class Converted:
    """A float32 TFLite file, the module it came from (NCHW) and inputs ``[B, H, W, 3]``."""

    path: Path
    module: nn.Module
    output_names: tuple[str, ...]
    images: list[npt.NDArray[np.float32]]

    def expected(self, image: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        """The module's outputs by name, maps in NHWC."""
        with torch.no_grad():
            outputs = self.module(torch.from_numpy(image).permute(0, 3, 1, 2))
        several = outputs if isinstance(outputs, tuple) else (outputs,)
        arrays = [o.permute(0, 2, 3, 1) if o.ndim == 4 else o for o in several]
        return dict(zip(self.output_names, (a.numpy() for a in arrays), strict=True))


@pytest.fixture(scope="session")
def hybrid_reference() -> ReferenceModel:
    return load_reference("hybrid-m", "bundled", size=(64, 64))


@pytest.fixture(scope="session")
def hybrid(
    tmp_path_factory: pytest.TempPathFactory, hybrid_reference: ReferenceModel
) -> Converted:
    """Hybrid-M with its bundled weights at 64 px: every operator of the family but GELU."""
    from mnv4_deploy.exporters.rewrites.chains import rewrite
    from mnv4_deploy.exporters.to_tflite.convert import export_tflite
    from mnv4_deploy.images.sets import bundled_calibration, select

    path = tmp_path_factory.mktemp("hybrid") / "fp32.tflite"
    rewritten = rewrite(hybrid_reference.module, "tflite", (64, 64))
    export_tflite(rewritten.module, path, input_shape=(1, 64, 64))
    chosen = select(bundled_calibration(hybrid_reference), 16)
    batches = list(chosen.batches(hybrid_reference.preprocessing, 1))
    return Converted(path, hybrid_reference.module, ("logits",), batches)


class Small(nn.Module):
    """What hybrid-M lacks: GELU, a border map far below the activations, several maps out.

    ``FAINT`` is the size of the map relative to the activations it is added to.
    """

    FAINT = 1e-5

    def __init__(self) -> None:
        from mnv4_deploy.exporters.rewrites.base import ConvPlusMap

        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        border = torch.zeros(1, 8, 5, 7)
        border[:, :, 0] = self.FAINT * torch.randn(8, 7, generator=generator)
        # Without a bias, which the converter would add to the map.
        self.mapped = ConvPlusMap(nn.Conv2d(8, 8, 1, bias=False), border)
        self.act = nn.GELU()
        self.last = nn.Conv2d(8, 4, 3, padding=1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.data.normal_(0, 0.4, generator=generator)
                if layer.bias is not None:
                    layer.bias.data.normal_(0, 0.2, generator=generator)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.act(self.mapped(self.stem(x)))
        return fine, self.last(fine)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    """``Small`` for a batch of 2 and a size that is neither square nor even."""
    from mnv4_deploy.exporters.to_tflite.convert import export_tflite

    path = tmp_path_factory.mktemp("small") / "fp32.tflite"
    module = Small().eval()
    names = ("fine", "coarse")
    export_tflite(module, path, input_shape=(2, 9, 13), output_names=names)
    generator = np.random.default_rng(0)
    images = [generator.standard_normal((2, 9, 13, 3)).astype(np.float32) for _ in range(8)]
    return Converted(path, module, names, images)
