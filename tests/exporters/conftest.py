"""TFLite files that many tests share: converting takes seconds, so there are two a run."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from mnv4_deploy.models.records import OutputSpec
from mnv4_deploy.models.weights import ReferenceModel, load_reference
from mnv4_deploy.tasks.classification.task import CLASSIFICATION
from tests.hybrid_export import Export
from tests.shared import Shared


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


@pytest.fixture(autouse=True)
def _files_are_ours(no_child: None) -> None:
    """Nothing here is damaged, so it is inspected in this process."""


@pytest.fixture(scope="session")
def hybrid_reference() -> ReferenceModel:
    return load_reference("hybrid-m", "bundled", size=(64, 64))


@pytest.fixture(scope="session")
def hybrid(hybrid_files: Export, hybrid_reference: ReferenceModel) -> Converted:
    """Hybrid-M with its bundled weights at 64 px, as it is exported: all operators but GELU."""
    from mnv4_deploy.images.preprocessing import normalize
    from mnv4_deploy.images.sets import select

    path = hybrid_files.out / "hybrid-m-fp32.tflite"
    found = CLASSIFICATION.find_images("bundled", "calibration", hybrid_reference)
    spec = hybrid_reference.preprocessing
    batches = [normalize(image[None], spec) for image in select(found, 16).pixels(spec)]
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
def small(shared: Shared) -> Converted:
    """``Small`` for a batch of 2 and a size that is neither square nor even."""
    module = Small().eval()
    names = ("fine", "coarse")

    def convert(folder: Path) -> None:
        from mnv4_deploy.exporters.to_tflite.convert import export_tflite

        path = folder / "fp32.tflite"
        maps = [OutputSpec(name, is_map=True) for name in names]
        export_tflite(module, path, input_shape=(2, 9, 13), outputs=maps)

    path = shared.folder("small-tflite", convert) / "fp32.tflite"
    generator = np.random.default_rng(0)
    images = [generator.standard_normal((2, 9, 13, 3)).astype(np.float32) for _ in range(8)]
    return Converted(path, module, names, images)
