"""Where two see their images cut otherwise, that is the cause, and what it costs is tried."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mnv4_deploy.drift.causes.preparation_fault import find_preparation_fault, sees_otherwise
from mnv4_deploy.drift.records import DriftRequest
from mnv4_deploy.pipelines.drift import drift
from mnv4_deploy.progress import Progress
from tests.drift.classifiers import OWN, SPEC, WEIGHTS, make_onnx, make_subject

OTHER_CROP = replace(SPEC, crop_pct=0.5)
PIXELS = np.random.default_rng(3).integers(0, 256, (8, SPEC.height, SPEC.width, 3), np.uint8)
# The same pictures, as if cut nearer: every pixel of one colour less.
CUT = PIXELS // 2


def test_only_what_changes_pixels_counts():
    assert not sees_otherwise(SPEC, replace(SPEC, mean=(0, 0, 0), std=(1, 1, 1)))
    assert sees_otherwise(SPEC, OTHER_CROP)
    assert sees_otherwise(SPEC, replace(SPEC, interpolation="bilinear"))


def test_the_difference_is_the_cause_where_it_makes_most_of_the_noise(tmp_path):
    noisy = WEIGHTS + 0.01 * np.random.default_rng(5).standard_normal(WEIGHTS.shape)
    reference = make_subject(make_onnx(tmp_path / "r.onnx"))
    candidate = replace(
        make_subject(make_onnx(tmp_path / "c.onnx", noisy.astype(np.float32))),
        preprocessing=OTHER_CROP,
    )
    found = find_preparation_fault(reference, candidate, PIXELS, CUT)
    assert found is not None
    assert found.cause.kind == "crop or interpolation"
    # Weights that are 1 % off are 40 dB below those of size one.
    assert 30 < found.after_db < 50
    for told in ("crop_pct 1 ", "0.5 ", f"{found.after_db:.1f} dB"):
        assert told in found.cause.sentence


def test_it_is_not_blamed_for_what_it_does_not_cause(tmp_path):
    reference = make_subject(make_onnx(tmp_path / "r.onnx"))
    broken = make_onnx(tmp_path / "c.onnx", -WEIGHTS)
    candidate = replace(make_subject(broken), preprocessing=OTHER_CROP)
    assert find_preparation_fault(reference, candidate, PIXELS, CUT) is None


@pytest.mark.usefixtures("no_child", "no_worker")
def test_drift_names_it_first_and_calls_no_layer_damaged(tmp_path):
    own = OWN["preprocessing"]
    other = OWN | {"preprocessing": own | {"crop_pct": 0.5}}
    reference, candidate = (
        str(make_onnx(tmp_path / name, metadata=metadata))
        for name, metadata in (("r.onnx", OWN), ("c.onnx", other))
    )
    images = tmp_path / "images"
    images.mkdir()
    for number, colour in enumerate(np.random.default_rng(7).integers(0, 256, (16, 3))):
        picture = np.zeros((40, 50, 3), np.uint8)
        picture[10:30, 12:38] = colour  # of which the nearer crop sees nothing else
        Image.fromarray(picture).save(images / f"{number}.png")
    request = DriftRequest(
        reference,
        candidate,
        data=str(images),
        allow_preprocessing=True,
        layer_images=4,
        workers=1,
    )
    layers = drift(request, Progress(show=False)).layers
    assert layers is not None
    assert [entry.cause.kind for entry in layers.ranking] == ["crop or interpolation"]
