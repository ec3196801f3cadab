"""Shards: every statistic against its formula, written out anew for one image at a time."""

import dataclasses
import hashlib
import math
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mnv4_deploy.drift.records import Shard, ShardJob
from mnv4_deploy.drift.run_shard import ShardRunner, too_many_skipped
from mnv4_deploy.errors import ImagesError, InputError
from mnv4_deploy.images.records import DatasetImage, SkippedImage
from mnv4_deploy.tasks.classification.task import CLASSIFICATION
from tests.drift.classifiers import (
    SPEC,
    WEIGHTS,
    logits,
    make_images,
    make_onnx,
    make_subject,
    make_tflite,
    pixels_of,
)

OTHER = WEIGHTS + np.random.default_rng(5).normal(0, 0.3, WEIGHTS.shape).astype(np.float32)


def shard_of(paths, start=0, labels=None):
    labels = labels or [None] * len(paths)
    return Shard(
        4,
        start,
        tuple(
            DatasetImage(str(path), path.name, label)
            for path, label in zip(paths, labels, strict=True)
        ),
    )


def columns(done):
    """What came of the images, one array a figure; ``[N]`` of those of the only output."""
    rows = done.rows
    flat = {
        n: a[:, 0] if n in ("signal", "noise", "cosine") else a for n, a in rows.columns.items()
    }
    return SimpleNamespace(index=rows.index, sha256=rows.sha256, **flat)


def compared(reference, candidate, paths):
    job = ShardJob(CLASSIFICATION, reference, candidate)
    return columns(ShardRunner(job).run(shard_of(paths)))


@pytest.fixture
def job(tmp_path):
    reference = make_subject(make_onnx(tmp_path / "a.onnx"))
    candidate = make_subject(make_tflite(tmp_path / "b.tflite", OTHER))
    return ShardJob(CLASSIFICATION, reference, candidate)


def test_statistics_are_those_of_the_formulas(tmp_path, job):
    paths = make_images(tmp_path / "images", 9)
    labels = [None, *range(7), 3]
    runner = ShardRunner(pickle.loads(pickle.dumps(job)))
    done = runner.run(shard_of(paths, start=100, labels=labels))
    assert done.index == 4 and done.skipped == ()
    found = columns(done)
    shown = pixels_of(paths)
    assert found.index.tolist() == list(range(100, 109))
    assert found.label.tolist() == [-1, *labels[1:]]
    for i, (r, c) in enumerate(zip(logits(shown), logits(shown, OTHER), strict=True)):
        p = [math.exp(v) / sum(map(math.exp, r)) for v in r]
        q = [math.exp(v) / sum(map(math.exp, c)) for v in c]
        kl = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        assert found.kl[i] == pytest.approx(kl, rel=1e-3, abs=1e-6)
        assert found.signal[i] == pytest.approx(sum(v * v for v in r), rel=1e-4)
        noise = sum((a - b) ** 2 for a, b in zip(r, c, strict=True))
        assert found.noise[i] == pytest.approx(noise, rel=1e-3, abs=1e-7)
        dot = sum(a * b for a, b in zip(r, c, strict=True))
        assert found.cosine[i] == pytest.approx(dot / math.hypot(*r) / math.hypot(*c), abs=1e-5)
        best = sorted(range(7), key=lambda k: -r[k])[:5]
        assert found.reference_top[i].tolist() == best
        assert found.candidate_top[i].tolist() == sorted(range(7), key=lambda k: -c[k])[:5]
        assert found.sha256[i].tobytes() == hashlib.sha256(paths[i].read_bytes()).digest()
    kinds = {name: array.dtype.name for name, array in vars(found).items()}
    assert kinds == {
        "index": "int64",
        "label": "int32",
        "reference_top": "int32",
        "candidate_top": "int32",
        **dict.fromkeys(("signal", "noise", "cosine", "kl"), "float64"),
        "sha256": "uint8",
    }


def test_a_subject_against_itself_has_no_noise(tmp_path, job):
    paths = make_images(tmp_path / "images", 3)
    found = compared(job.reference, job.reference, paths)
    assert found.noise.tolist() == [0, 0, 0] and found.kl.tolist() == [0, 0, 0]
    np.testing.assert_allclose(found.cosine, 1)


def test_ties_go_to_the_lower_class(tmp_path):
    weights = np.zeros((7, 3), np.float32)
    weights[[2, 5]] = 1
    same = make_subject(make_onnx(tmp_path / "a.onnx", weights))
    white = tmp_path / "white.png"
    Image.new("RGB", (10, 8), "white").save(white)
    found = compared(same, same, [white])
    assert found.reference_top.tolist() == [[2, 5, 0, 1, 3]]


def test_heads_of_few_classes(tmp_path):
    few = make_subject(make_onnx(tmp_path / "a.onnx", WEIGHTS[:3]), num_classes=3)
    paths = make_images(tmp_path / "images", 2)
    done = ShardRunner(ShardJob(CLASSIFICATION, few, few)).run(shard_of(paths))
    assert done.rows.columns["candidate_top"].shape == (2, 3)


def test_probabilities_are_compared_as_such(tmp_path, job):
    """A softmax at the end of both changes the outputs but not the divergence."""
    paths = make_images(tmp_path / "images", 4)
    expected = columns(ShardRunner(job).run(shard_of(paths)))
    soft = [
        make_subject(make_onnx(tmp_path / f"{i}.onnx", weights, softmax=True), probabilities=True)
        for i, weights in enumerate((WEIGHTS, OTHER))
    ]
    found = compared(soft[0], soft[1], paths)
    np.testing.assert_allclose(found.kl, expected.kl, rtol=1e-3, atol=1e-6)
    assert (found.reference_top == expected.reference_top).all()
    assert found.signal.max() <= 1


# Cutting


@pytest.mark.parametrize("cut", [1, 3, 5, 12])
@pytest.mark.parametrize("batches", [(1, 1), (4, 1), (4, 6)])
def test_results_do_not_depend_on_the_cut(tmp_path, cut, batches):
    paths = make_images(tmp_path / "images", 12)
    paths[7].write_bytes(b"damaged")
    mine, theirs = batches
    pair = ShardJob(
        CLASSIFICATION,
        make_subject(make_onnx(tmp_path / "a.onnx", batch=mine)),
        make_subject(make_tflite(tmp_path / "b.tflite", OTHER, batch=theirs)),
    )
    runner = ShardRunner(pair)
    whole = columns(runner.run(shard_of(paths)))
    assert len(whole.index) == 11
    parts = [
        columns(runner.run(shard_of(paths[start : start + cut], start)))
        for start in range(0, 12, cut)
    ]
    for name, array in vars(whole).items():
        # A shard of damaged images alone has no columns.
        again = np.concatenate([vars(part)[name] for part in parts if name in vars(part)])
        np.testing.assert_array_equal(again, array)
    good = pixels_of([path for path in paths if path != paths[7]])
    expected = (logits(good) ** 2).sum(axis=1)
    np.testing.assert_allclose(whole.signal, expected, rtol=1e-4)


def test_each_sees_its_own_preprocessing(tmp_path, job):
    other = dataclasses.replace(SPEC, mean=(0, 0, 0), crop_pct=0.5, interpolation="bilinear")
    candidate = make_subject(make_onnx(tmp_path / "c.onnx"), preprocessing=other)
    path = tmp_path / "framed.png"
    framed = Image.new("RGB", (40, 32), "black")
    framed.paste((255, 255, 255), (8, 6, 32, 26))
    framed.save(path)
    found = compared(job.reference, candidate, [path])
    # The candidate sees the white middle alone: 1 / std of each colour.
    c = (1 / np.array(SPEC.std)) @ WEIGHTS.astype(np.float64).T
    assert found.candidate_top[0, 0] == c.argmax()
    r_energy = found.signal[0]
    assert found.noise[0] > 0 and r_energy < (c * c).sum()
    alone = compared(candidate, candidate, [path])
    assert alone.signal[0] == pytest.approx((c * c).sum(), rel=1e-4)


# What cannot be used


def test_damaged_images_are_named_and_skipped(tmp_path, job):
    paths = make_images(tmp_path / "images", 6)
    paths[1].write_bytes(b"")
    paths[2].write_text("hello")
    paths[3].write_bytes(paths[3].read_bytes()[:100])
    paths[4].unlink()
    done = ShardRunner(job).run(shard_of(paths, start=10))
    assert done.rows.index.tolist() == [10, 15]
    assert [(s.index, s.name) for s in done.skipped] == [
        (10 + i, paths[i].name) for i in (1, 2, 3, 4)
    ]
    reasons = [s.reason for s in done.skipped]
    assert reasons[:2] == ["empty file", "not an image"] and reasons[3].startswith("No such file")
    assert "truncated" in reasons[2]


def test_a_shard_of_nothing_good_has_empty_arrays(tmp_path, job):
    bad = tmp_path / "bad.png"
    bad.write_text("no")
    done = ShardRunner(job).run(shard_of([bad]))
    assert len(done.rows) == 0 and len(done.skipped) == 1
    assert done.rows.index.shape == (0,) and done.rows.sha256.shape == (0, 32)


@pytest.mark.parametrize("which", ["reference", "candidate"])
def test_calibration_images_are_refused(tmp_path, job, which):
    paths = make_images(tmp_path / "images", 3)
    seen = hashlib.sha256(paths[2].read_bytes()).hexdigest()
    subject = dataclasses.replace(getattr(job, which), calibration_sha256=("f" * 64, seen))
    runner = ShardRunner(dataclasses.replace(job, **{which: subject}))
    runner.run(shard_of(paths[:2]))
    with pytest.raises(ImagesError, match=rf"'002\.png' is among the images {subject.name} was"):
        runner.run(shard_of(paths))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_not_finite_are_refused(tmp_path, job, value):
    broken = WEIGHTS.copy()
    broken[3, 1] = value
    candidate = make_subject(make_onnx(tmp_path / "broken.onnx", broken))
    paths = make_images(tmp_path / "images", 1)
    with pytest.raises(InputError, match=r"broken\.onnx gives outputs .* '000\.png'"):
        ShardRunner(ShardJob(CLASSIFICATION, job.reference, candidate)).run(shard_of(paths))


@pytest.mark.parametrize(
    ("bad", "total", "refused"),
    [(0, 16, False), (3, 16, False), (4, 16, True), (5, 100, False), (6, 100, True)],
)
def test_how_many_may_be_skipped(bad, total, refused):
    skipped = [SkippedImage(i, f"{i}.png", f"reason {i}") for i in range(bad)]
    if not refused:
        too_many_skipped(skipped, total)
        return
    with pytest.raises(ImagesError, match=rf"{bad} of {total} images") as caught:
        too_many_skipped(skipped, total)
    assert "'3.png': reason 3" in str(caught.value) and "4.png" not in str(caught.value)
