"""Shards on a device: the same bits as here, and what becomes of a run that goes wrong."""

import dataclasses
import threading

import numpy as np
import pytest
from onnx import TensorProto

from mnv4_deploy.drift import run_shard
from mnv4_deploy.drift.device_executor import device_executor
from mnv4_deploy.drift.environment import processor
from mnv4_deploy.drift.records import ShardJob
from mnv4_deploy.drift.run import open_run
from mnv4_deploy.drift.run_shard import ShardRunner
from mnv4_deploy.drift.shards import cut
from mnv4_deploy.errors import ModelFileError, ToolchainError
from mnv4_deploy.images.records import Dataset, DatasetImage
from mnv4_deploy.models.records import Preprocessing
from mnv4_deploy.models.source import ZooSource
from mnv4_deploy.profiles.inspection.inspect import inspect_file
from mnv4_deploy.profiles.runtimes.tensors import TensorRunner
from mnv4_deploy.sessions.quantization import boundary, scale_of
from mnv4_deploy.tasks.classification.task import CLASSIFICATION
from tests.drift.classifiers import (
    SPEC,
    WEIGHTS,
    make_images,
    make_onnx,
    make_subject,
    make_tflite,
)
from tests.drift.fake_device import FACTS, FakeDevice
from tests.drift.test_shards import equal
from tests.sessions.test_image_runner import _identity

pytestmark = pytest.mark.usefixtures("no_child")
IMAGES = 21
OTHER = WEIGHTS + np.random.default_rng(5).normal(0, 0.3, WEIGHTS.shape).astype(np.float32)


def codes_in_and_out(path):
    """An int8 .onnx file that gives its input back: 72 classes."""
    facts = {"input.scale": "0.02", "input.zero_point": "-10"}
    facts |= {"logits.scale": "0.05", "logits.zero_point": "3"}
    return _identity(path, TensorProto.INT8, 2, metadata=facts)


# Of each: the file, and fields of its subject that are not the usual ones.
FILES = {
    "float onnx": lambda f: (make_onnx(f / "a.onnx", OTHER), {}),
    "onnx in twos": lambda f: (make_onnx(f / "b.onnx", OTHER, batch=2), {}),
    "onnx of any size": lambda f: (
        make_onnx(f / "c.onnx", OTHER, batch="N", sides=("h", "w")),
        {},
    ),
    "onnx of pixels": lambda f: (make_onnx(f / "d.onnx", OTHER, dtype=TensorProto.UINT8), {}),
    "int8 onnx": lambda f: (
        codes_in_and_out(f / "e.onnx"),
        {
            "num_classes": 72,
            "labels": (),
            "preprocessing": dataclasses.replace(SPEC, height=4, width=6),
        },
    ),
    "float tflite": lambda f: (make_tflite(f / "f.tflite", OTHER), {}),
    "tflite in threes": lambda f: (make_tflite(f / "g.tflite", OTHER, batch=3), {}),
    "uint8 tflite": lambda f: (make_tflite(f / "h.tflite", OTHER, quantization=(0.02, 118)), {}),
}


@pytest.fixture(params=FILES)
def candidate(request, tmp_path):
    path, fields = FILES[request.param](tmp_path)
    return make_subject(path, **fields)


@pytest.fixture
def dataset(tmp_path):
    paths = make_images(tmp_path / "images", IMAGES)
    paths[4].write_bytes(b"no image")
    images = tuple(DatasetImage(str(path), path.name, i % 7) for i, path in enumerate(paths))
    return Dataset("made", str(tmp_path / "images"), images)


@pytest.fixture
def job(tmp_path):
    return ShardJob(
        CLASSIFICATION,
        make_subject(make_onnx(tmp_path / "r.onnx")),
        make_subject(make_tflite(tmp_path / "c.tflite", OTHER)),
    )


@pytest.fixture
def run(tmp_path, dataset):
    """All images on a device, in shards of four."""

    def run_(job, device):
        with (
            device_executor(job, device) as place,
            open_run(job, dataset, place=place, store=tmp_path / "s", shard_size=4) as done,
        ):
            return done

    return run_


def here(job, dataset):
    """The same in this process, in one go."""
    (shard,) = cut(dataset, len(dataset.images))
    return ShardRunner(job).run(shard)


def test_what_a_file_takes_is_read_as_its_runtime_has_it(candidate):
    session = TensorRunner(candidate.path)
    for mine, theirs in zip(
        boundary(inspect_file(candidate.path)), (session.inputs, session.outputs), strict=True
    ):
        assert [(t.name, t.dtype, scale_of(t)) for t in mine] == [
            (t.name, t.dtype, scale_of(t)) for t in theirs
        ]
        assert [len(t.shape) for t in mine] == [len(t.shape) for t in theirs]


def test_same_bits_as_here(candidate, dataset, run):
    job = ShardJob(CLASSIFICATION, candidate, candidate)
    device = FakeDevice()
    found = run(job, device)
    whole = here(job, dataset)
    assert equal(found.rows, whole.rows)
    assert [image.name for image in found.skipped] == ["004.png"]
    assert found.workers == 1 and device.runs > 0
    assert all(session.closed for session in device.sessions) and not device.closed


def test_two_files_are_compared_there(job, dataset, run):
    device = FakeDevice()
    found = run(job, device)
    assert sorted(device.opened) == ["c.tflite", "r.onnx"]
    assert device.runs == 2 * (IMAGES - 1)
    assert equal(found.rows, here(job, dataset).rows)
    assert found.rows.columns["noise"].min() > 0


def test_pytorch_stays_here(tmp_path, dataset, run):
    fields = {"num_classes": 1000, "labels": (), "preprocessing": Preprocessing(64, 64)}
    weights = np.random.default_rng(2).standard_normal((1000, 3)).astype(np.float32)
    file = make_onnx(tmp_path / "any.onnx", weights, sides=("h", "w"))
    torch_ = dataclasses.replace(
        make_subject(file, **fields), kind="torch", path="", source=ZooSource("conv-s", "random")
    )
    job = ShardJob(CLASSIFICATION, torch_, make_subject(file, **fields))
    device = FakeDevice()
    with device_executor(job, device) as place:
        assert processor() in place.processors and len(place.processors) == 2
        assert place.runtimes == (device.sessions[0].runtime,)
    found = run(job, device)
    assert device.opened == ["any.onnx"] * 2
    assert device.runs == IMAGES - 1
    assert equal(found.rows, here(job, dataset).rows)


def test_a_device_that_computes_something_else_shows(job, dataset, run):
    whole = here(job, dataset).rows

    def changed(name, output):
        return output + np.float32(1e-3) if name == "c.tflite" else output

    found = run(job, FakeDevice(changed=changed)).rows
    np.testing.assert_array_equal(found.columns["signal"], whole.columns["signal"])
    assert (found.columns["noise"] != whole.columns["noise"]).all()


@pytest.mark.parametrize(
    "changed",
    [
        lambda _, output: output[:, :5],
        lambda _, output: output.astype(np.float64),
        lambda *_: np.zeros(0, np.uint8),
    ],
)
def test_an_output_that_cannot_be_is_refused(job, run, changed):
    with pytest.raises(ToolchainError, match=r"gave .* on the device instead of float32 \[1, 7\]"):
        run(job, FakeDevice(changed=changed))


def test_a_crash_names_the_device_the_images_and_the_file(job, run):
    with pytest.raises(
        ModelFileError, match=r"Board .* failed at images \d+ to \d+ .*\.png.*SIGSEGV"
    ):
        run(job, FakeDevice(crashes_at=9))


def test_a_lost_connection_loses_no_finished_shard(tmp_path, job, dataset, run):
    with pytest.raises(
        ToolchainError, match=r"lost: look after the network; .* goes on from them"
    ):
        run(job, FakeDevice(runs_left=29))
    finished = [int(path.stem) for path in tmp_path.glob("s/*/*.npz")]
    assert 1 <= len(finished) <= 3
    device = FakeDevice()
    found = run(job, device)
    assert found.resumed_images == 4 * len(finished)
    # The damaged image is in the second shard.
    missing = IMAGES - found.resumed_images - (1 not in finished)
    assert device.runs == 2 * missing
    assert equal(found.rows, here(job, dataset).rows)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("other", ["processor", "here"])
def test_results_of_another_processor_are_not_taken(tmp_path, job, dataset, run, other):
    with pytest.raises(ToolchainError):
        run(job, FakeDevice(runs_left=29))
    assert list(tmp_path.glob("s/*/*.npz"))
    if other == "here":
        with open_run(job, dataset, workers=1, store=tmp_path / "s", shard_size=4) as found:
            assert found.resumed_images == 0
        return
    facts = dataclasses.replace(FACTS, fingerprint="cortex-a76 two")
    assert run(job, FakeDevice(facts=facts)).resumed_images == 0


def test_another_runtime_is_another_run(job):
    keys = set()
    for runtime in ("ai-edge-litert 2.1.6", "tflite-runtime 2.14.0"):
        with device_executor(job, FakeDevice(runtime=runtime)) as place:
            assert place.runtimes == (runtime,)
            keys.add(place.processors)
    assert len(keys) == 2


def test_images_are_read_while_the_device_works(job, run, monkeypatch):
    working, read = threading.Event(), threading.Event()
    decode = run_shard._decode

    def decoded(*arguments):
        if working.is_set():
            read.set()
        return decode(*arguments)

    def inference():
        working.set()
        read.wait(5)  # would last for all images if nothing were read meanwhile
        working.clear()

    monkeypatch.setattr(run_shard, "_decode", decoded)
    run(job, FakeDevice(before=inference))
    assert read.is_set()


def test_a_run_that_is_left_stops_at_once(job, dataset):
    device = FakeDevice()
    with device_executor(job, device) as place:
        results = place.run(cut(dataset, 1), "key")
        next(results)
        results.close()
        ran = device.runs
        assert all(session.closed for session in device.sessions)
    assert device.runs == ran < IMAGES
    assert not device.closed


def test_a_file_that_the_device_refuses_leaves_nothing_open(tmp_path, job):
    device = FakeDevice()
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    bad = ShardJob(
        CLASSIFICATION, job.reference, dataclasses.replace(job.candidate, path=str(broken))
    )
    with pytest.raises(ModelFileError, match=r"broken\.onnx"), device_executor(bad, device):
        raise AssertionError("it was opened")
    assert [session.closed for session in device.sessions] == [True]
