"""A candidate that wants other pixels is found out, on networks that compute exactly alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mnv4_deploy.drift.causes.input_faults import NORMALISATIONS, find_input_fault
from mnv4_deploy.models.records import Preprocessing
from mnv4_deploy.sessions.records import ModelRef

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SIDE, CLASSES = 8, 10
SPEC = Preprocessing(SIDE, SIDE)
MEAN, STD = np.array(SPEC.mean), np.array(SPEC.std)
PIXELS = np.random.default_rng(1).integers(0, 256, (16, SIDE, SIDE, 3), np.uint8)


def weights(seed: int = 0) -> np.ndarray:
    """``[3, 8, 8, 32]``: every pixel counts, so that no order of them is like another."""
    return np.random.default_rng(seed).normal(size=(3, SIDE, SIDE, 32)).astype(np.float32)


def subject(
    path: Path,
    first: np.ndarray,
    shift: np.ndarray | float = 0.0,
    *,
    baked=None,
    last_factor: float = 1.0,
) -> ModelRef:
    """A network of two products. ``shift`` is added to each colour before the first.

    ``last_factor`` is of the second product's weights.
    ``baked`` is the (mean, deviation) with which the file normalises uint8 pixels itself.
    """
    helper, types = onnx.helper, onnx.TensorProto
    rng = np.random.default_rng(2)
    scale, offset = np.ones((1, 3, 1, 1)), np.broadcast_to(shift, 3).reshape(1, 3, 1, 1)
    nodes = []
    if baked is not None:
        mean, std = (np.array(part).reshape(1, 3, 1, 1) for part in baked)
        scale, offset = 1 / (255 * std), -mean / std
        nodes = [
            helper.make_node("Transpose", ["input"], ["transposed"], perm=[0, 3, 1, 2]),
            helper.make_node("Cast", ["transposed"], ["pixels"], to=types.FLOAT),
        ]
    constants = {
        "scale": scale,
        "offset": offset,
        "first": first.reshape(-1, 32),
        "last": last_factor * rng.normal(size=(32, CLASSES)),
    }
    nodes += [
        helper.make_node("Mul", ["pixels" if baked else "input", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "offset"], ["shifted"]),
        helper.make_node("Flatten", ["shifted"], ["flat"]),
        helper.make_node("MatMul", ["flat", "first"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["kept"]),
        helper.make_node("MatMul", ["kept", "last"], ["logits"]),
    ]
    shape = [1, SIDE, SIDE, 3] if baked else [1, 3, SIDE, SIDE]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", types.UINT8 if baked else types.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", types.FLOAT, [1, CLASSES])],
        [onnx.numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, path)
    size = path.stat().st_size
    return ModelRef("onnx", path.name, str(path), SPEC, "options", "", size, num_classes=CLASSES)


@pytest.fixture
def reference(tmp_path: Path) -> ModelRef:
    return subject(tmp_path / "reference.onnx", weights())


def test_the_same_network_has_no_fault(reference: ModelRef) -> None:
    assert find_input_fault(reference, reference, PIXELS) is None


def test_other_weights_are_no_fault_of_the_input(tmp_path: Path, reference: ModelRef) -> None:
    assert find_input_fault(reference, subject(tmp_path / "o.onnx", weights(9)), PIXELS) is None


def test_an_input_that_only_undoes_a_later_layer_is_no_fault(
    tmp_path: Path, reference: ModelRef
) -> None:
    """The last layer is 57 times too small, and colours not divided by 0.225 / 255 make up for it.

    That repairs the outputs, but the first layer was right before and is not then.
    """
    small = subject(tmp_path / "small.onnx", weights(), last_factor=float(np.mean(1 / STD)) / 255)
    assert find_input_fault(reference, small, PIXELS) is None
    # The same pixels are the fault where it is the first layer that wants them.
    early = subject(tmp_path / "early.onnx", weights() * float(np.mean(1 / STD)) / 255)
    cause = find_input_fault(reference, early, PIXELS)
    assert cause is not None and cause.kind == "normalisation"


def test_swapped_channels(tmp_path: Path, reference: ModelRef) -> None:
    swapped = subject(tmp_path / "bgr.onnx", weights()[::-1])
    cause = find_input_fault(reference, swapped, PIXELS)
    assert cause is not None and cause.kind == "channel order"
    assert "red and blue" in cause.sentence


def test_swapped_axes(tmp_path: Path, reference: ModelRef) -> None:
    transposed = subject(tmp_path / "transposed.onnx", weights().swapaxes(1, 2))
    cause = find_input_fault(reference, transposed, PIXELS)
    assert cause is not None and cause.kind == "channel order"
    assert "rows and columns" in cause.sentence


@pytest.mark.parametrize(
    "name", [n for n in NORMALISATIONS if not n.startswith("ImageNet's mean and")]
)
def test_another_normalisation(tmp_path: Path, reference: ModelRef, name: str) -> None:
    """The candidate undoes ``name`` and normalises as the reference does: then they are equal."""
    mean, std = map(np.array, NORMALISATIONS[name])
    factor = std / STD
    candidate = subject(
        tmp_path / "other.onnx",
        weights() * factor[:, None, None, None],
        (mean - MEAN) / STD / factor,
    )
    cause = find_input_fault(reference, candidate, PIXELS)
    assert cause is not None and cause.kind == "normalisation"
    assert f"Fed as {name}," in cause.sentence


@pytest.mark.parametrize("name", ["pixels of 0..1", "pixels of -1..1", "pixels of 0..255"])
def test_a_file_that_normalises_wrongly_by_itself(
    tmp_path: Path, reference: ModelRef, name: str
) -> None:
    """It takes pixels, so the reference is fed as it feeds itself: then they are equal."""
    wrong = subject(tmp_path / "baked.onnx", weights(), baked=NORMALISATIONS[name])
    cause = find_input_fault(reference, wrong, PIXELS)
    assert cause is not None and cause.kind == "normalisation"
    assert f"Fed as {name}, the reference agrees with the candidate" in cause.sentence


def test_two_files_that_take_pixels(tmp_path: Path) -> None:
    own = (SPEC.mean, SPEC.std)
    right = subject(tmp_path / "right.onnx", weights(), baked=own)
    assert find_input_fault(right, right, PIXELS) is None
    grey = ((0.5,) * 3, (0.5,) * 3)
    one = subject(tmp_path / "one.onnx", weights(), baked=grey)
    other = subject(tmp_path / "other.onnx", weights()[::-1], baked=grey)
    cause = find_input_fault(one, other, PIXELS)
    assert cause is not None and cause.kind == "channel order"
