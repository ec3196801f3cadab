"""Files are judged against PyTorch, and by what float32 can do where that is less."""

import numpy as np
import pytest
import torch
from torch import nn

from mnv4_deploy.exporters.expected_outputs import ExpectedOutputs
from mnv4_deploy.images.preprocessing import normalize
from mnv4_deploy.models.records import Preprocessing
from mnv4_deploy.tolerances import TOLERANCES

SPEC = Preprocessing(height=4, width=4, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), np.uint8)


class Cancelling(nn.Module):
    """Adds ``large`` and takes it away again, which only rounding notices; counts its runs."""

    def __init__(self, large: float) -> None:
        super().__init__()
        self.register_buffer("large", torch.tensor(large))
        self.runs: list[tuple[torch.dtype, bool]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        enabled = torch.backends.mkldnn.enabled  # type: ignore[attr-defined]
        self.runs.append((x.dtype, bool(enabled)))
        # Without oneDNN's kernels the sum is taken in two steps, which rounds otherwise.
        large = self.large if enabled else self.large / 3
        y = x.flatten(1) + large
        return y - large

    def __deepcopy__(self, memo: object) -> "Cancelling":
        copied = Cancelling(float(self.large))
        copied.runs = self.runs
        return copied


def inputs() -> np.ndarray:
    return normalize(IMAGES, SPEC).transpose(0, 3, 1, 2).astype(np.float32)


def exact() -> np.ndarray:
    return inputs().reshape(3, -1).astype(np.float64)


def own_error(module: nn.Module) -> np.ndarray:
    """How far each image's outputs in float32 are off."""
    with torch.inference_mode():
        outputs = module(torch.from_numpy(inputs())).numpy()
    difference = np.abs(outputs - exact()).max(axis=1)
    return np.asarray(difference / np.abs(exact()).max(axis=1))


def test_agreement_asks_for_one_run() -> None:
    module = Cancelling(0.0)
    expected = ExpectedOutputs(module, IMAGES, SPEC)
    for _ in range(2):
        assert expected.compare("a", {"logits": exact().astype(np.float32)}, "float32").ok
    assert module.runs == [(torch.float32, True)]


def test_what_float32_cannot_do_is_not_asked_for() -> None:
    module = Cancelling(2.0**17)  # a step of float32 is 2^-6 there
    expected = ExpectedOutputs(module, IMAGES, SPEC)
    own = own_error(module)
    assert own.min() > TOLERANCES["float32"].value
    for factor, ok in ((3.0, True), (12.0, False)):
        # Off by so many times the least that float32 itself is off, on the first image.
        actual = exact()
        actual[0, 0] += factor * own[0] * np.abs(actual[0]).max()
        found = expected.compare("a", {"logits": actual}, "float32")
        assert found.against == "PyTorch in float64"
        assert found.ok is ok
        assert found.max_relative_error == pytest.approx(factor * own[0], rel=1e-3)
    # float64 and the other order of summation: once, however many files are judged.
    assert module.runs.count((torch.float64, True)) == 1
    assert module.runs.count((torch.float32, False)) == 1


def test_the_worse_of_two_orders_counts() -> None:
    module = Cancelling(2.0**17)
    expected = ExpectedOutputs(module, IMAGES, SPEC)
    with torch.backends.mkldnn.flags(enabled=False):
        other = own_error(module)
    usual = own_error(module)
    assert not np.allclose(other, usual)
    actual = exact()
    actual[:, 0] += 1000.0
    found = expected.compare("a", {"logits": actual}, "float32")
    assert found.tolerance == pytest.approx(4 * np.maximum(other, usual).min(), rel=1e-3)


def test_other_tolerances_have_no_such_excuse() -> None:
    expected = ExpectedOutputs(Cancelling(2.0**17), IMAGES, SPEC, name="its model")
    found = expected.compare("a", {"logits": exact() + 1.0}, "float16")
    assert (found.against, found.tolerance, found.ok) == ("its model", 1e-2, False)
