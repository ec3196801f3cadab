import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mnv4_deploy.images.preprocessing import normalize
from mnv4_deploy.images.sets import random_images
from mnv4_deploy.models.records import Preprocessing
from mnv4_deploy.sessions.feed import batches
from mnv4_deploy.sessions.image_runner import open_image_runner

SPEC = Preprocessing(height=4, width=6, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


def _identity(path, dtype, batch, *, channels_last=False, metadata=None):
    """A file that gives back its input, flattened."""
    shape = [batch, 4, 6, 3] if channels_last else [batch, 3, 4, 6]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["input", "shape"], ["logits"])],
        "net",
        [value("input", dtype, shape)],
        [value("logits", dtype, [batch, 72])],
        [numpy_helper.from_array(np.array([0, 72]), "shape")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    helper.set_model_props(model, metadata or {})
    onnx.save(model, path)
    return path


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), np.uint8)


@pytest.mark.parametrize("batch", [1, 2, 5, 8, "batch"])
def test_every_batch_size_gives_each_image_once(tmp_path, images, batch):
    path = _identity(tmp_path / "x.onnx", TensorProto.FLOAT, batch)
    rows = open_image_runner(path, SPEC).outputs(images)["logits"]
    expected = normalize(images, SPEC).transpose(0, 3, 1, 2).reshape(5, 72)
    np.testing.assert_array_equal(rows, expected)


def test_pixels_go_in_as_they_are(tmp_path, images):
    path = _identity(tmp_path / "x.onnx", TensorProto.UINT8, 1, channels_last=True)
    rows = open_image_runner(path, SPEC).outputs(images)["logits"]
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, images.reshape(5, 72))


LIMITS = {
    TensorProto.INT8: (-128, 127),
    TensorProto.UINT8: (0, 255),
    TensorProto.INT16: (-32768, 32767),
    TensorProto.UINT16: (0, 65535),
}


@pytest.mark.parametrize(
    ("dtype", "zero_point"),
    [
        (TensorProto.INT8, -10),
        (TensorProto.UINT8, 118),
        (TensorProto.INT16, 0),
        (TensorProto.UINT16, 30000),
    ],
)
@pytest.mark.parametrize("scale", [0.02, 0.001, 0.00002])
def test_integer_inputs_and_outputs(tmp_path, images, dtype, zero_point, scale):
    facts: dict[str, object] = {}
    for name in ("input", "logits"):
        facts |= {f"{name}.scale": repr(scale), f"{name}.zero_point": str(zero_point)}
    path = _identity(tmp_path / "x.onnx", dtype, 2, metadata=facts)
    rows = open_image_runner(path, SPEC).outputs(images)["logits"]
    real = normalize(images, SPEC).transpose(0, 3, 1, 2).reshape(5, 72)
    low, high = LIMITS[dtype]
    # Values beyond the range saturate (at scale 0.001 nearly all do) and never wrap round.
    clipped = np.clip(real, (low - zero_point) * scale, (high - zero_point) * scale)
    assert np.abs(rows - clipped).max() <= scale * 0.5001


def test_chunks_are_full_and_know_how_many_are_real(images):
    chunks = list(batches(images, 2))
    assert [count for _, count in chunks] == [2, 2, 1]
    assert all(len(chunk) == 2 for chunk, _ in chunks)
    np.testing.assert_array_equal(chunks[-1][0][1], images[-1])
    ((only, count),) = batches(images, 5)
    assert count == 5
    np.testing.assert_array_equal(only, images)


def test_pixels_of_a_selection():
    found = random_images(16).pixels(SPEC)
    assert found.shape == (16, 4, 6, 3)
    assert found.dtype == np.uint8
