import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mnv4_deploy.console import PlainConsole
from mnv4_deploy.drift.run import open_run, run_images
from mnv4_deploy.drift.shards import cut
from mnv4_deploy.errors import ImagesError, InputError, OutputError, WeightsError
from mnv4_deploy.images.records import Dataset
from mnv4_deploy.progress import Progress
from tests.drift.fake_shards import FakeRunner, gates, log_of, make_dataset, make_job, pids, ran
from tests.drift.test_shards import equal
from tests.time_limit import PATIENCE_S, wait_until


@pytest.fixture
def run(tmp_path):
    def run(job, dataset, **options):
        return run_images(
            job, dataset, **{"store": tmp_path / "s", "runner": FakeRunner, **options}
        )

    return run


def expected(tmp_path, dataset, monkeypatch):
    """All images in one go, in this process."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    runner = FakeRunner(make_job(tmp_path, log="here"))
    return runner.run(cut(dataset, len(dataset.images))[0])


def test_same_bits_for_every_partition(tmp_path, run, monkeypatch):
    dataset = make_dataset(tmp_path / "images", 60, {5: "bad", 41: "bad"})
    whole = expected(tmp_path, dataset, monkeypatch)
    for workers, size in ((1, 60), (1, 1), (2, 7), (3, None)):
        found = run(make_job(tmp_path), dataset, workers=workers, shard_size=size)
        assert equal(found.rows, whole.rows)
        assert found.skipped == whole.skipped
        assert (found.resumed_images, found.workers) == (0, workers)
        assert found.images_per_second == pytest.approx(60 / found.seconds)
        assert not (tmp_path / "s").exists()


SCRIPT = """
import sys
from pathlib import Path
from mnv4_deploy.drift.run import run_images
from mnv4_deploy.images.records import Dataset, DatasetImage
from tests.drift.fake_shards import FakeRunner, make_job
folder = Path(sys.argv[1])
images = tuple(
    DatasetImage(str(path), path.name, number % 5)
    for number, path in enumerate(sorted((folder / "images").iterdir()))
)
run_images(make_job(folder), Dataset("made", str(folder), images), workers=2, store=folder / "s",
           runner=FakeRunner, shard_size=5)
"""


def test_killed_run_resumes_with_the_same_bits(tmp_path, run, monkeypatch):
    """Both workers come to a gate behind the twelfth of forty shards, and no further."""
    gated = gates(range(60, 200), tmp_path / "open")
    dataset = make_dataset(tmp_path / "images", 200, {11: "bad", **gated})
    job = make_job(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    wait_until(lambda: len(list(tmp_path.glob("s/*/*.npz"))) >= 12)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (tmp_path / "open").touch()
    finished = {int(path.stem) for path in tmp_path.glob("s/*/*.npz")}
    assert finished == set(range(12))
    (damaged, *_) = tmp_path.glob("s/*/*.npz")
    damaged.write_bytes(damaged.read_bytes()[:-30])
    Path(log_of(job)).unlink()

    found = run(job, dataset, workers=3, shard_size=5)  # another number of workers, too

    whole = expected(tmp_path, dataset, monkeypatch)
    assert equal(found.rows, whole.rows)
    assert found.skipped == whole.skipped
    assert found.resumed_images == 5 * (len(finished) - 1)
    assert set(ran(job)) == set(range(40)) - finished | {int(damaged.stem)}
    assert len(ran(job)) == len(set(ran(job)))
    assert not (tmp_path / "s").exists()


@pytest.mark.usefixtures("no_worker")
def test_shards_stay_until_the_whole_block_has_ended_well(tmp_path):
    dataset = make_dataset(tmp_path / "images", 20)
    job = make_job(tmp_path)
    options = {"store": tmp_path / "s", "runner": FakeRunner, "workers": 1, "shard_size": 5}
    with (
        pytest.raises(ZeroDivisionError),
        open_run(job, dataset, **options) as first,
    ):
        raise ZeroDivisionError
    with open_run(job, dataset, **options) as second:
        assert second.resumed_images == 20
        assert second.images_per_second == 0
        assert equal(first.rows, second.rows)
    assert len(ran(job)) == 4
    assert not (tmp_path / "s").exists()


@pytest.mark.usefixtures("no_worker")
def test_changed_image_starts_anew(tmp_path):
    dataset = make_dataset(tmp_path / "images", 20)
    job = make_job(tmp_path)
    options = {"store": tmp_path / "s", "runner": FakeRunner, "workers": 1, "shard_size": 5}
    with pytest.raises(ZeroDivisionError), open_run(job, dataset, **options):
        raise ZeroDivisionError
    Path(dataset.images[0].path).write_text("another")
    assert run_images(job, dataset, **options).resumed_images == 0


@pytest.mark.usefixtures("no_worker")
def test_error_keeps_what_was_done(tmp_path, run):
    dataset = make_dataset(tmp_path / "images", 20, {19: "deploy error"})
    job = make_job(tmp_path)
    with pytest.raises(WeightsError):
        run(job, dataset, workers=1, shard_size=5)
    assert len(list(tmp_path.glob("s/*/*.npz"))) == 3


def test_second_run_of_the_same_job_is_refused_and_harms_nothing(tmp_path, run):
    gated = gates(range(15, 200), tmp_path / "open")
    dataset = make_dataset(tmp_path / "images", 200, gated)
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    wait_until(lambda: len(list(tmp_path.glob("s/*/*.npz"))) >= 3)
    with pytest.raises(OutputError, match="Another run of the same comparison"):
        run(make_job(tmp_path), dataset, workers=1, shard_size=5)
    (tmp_path / "open").touch()
    assert process.wait(timeout=PATIENCE_S) == 0
    assert sorted(ran(make_job(tmp_path))) == list(range(40))


@pytest.mark.usefixtures("no_worker")
def test_too_many_bad_images_end_the_run_early(tmp_path, run):
    bad = dict.fromkeys(range(0, 200, 2), "bad")
    dataset = make_dataset(tmp_path / "images", 200, bad)
    job = make_job(tmp_path)
    with pytest.raises(ImagesError, match=r"'00000\.txt': it is bad"):
        run(job, dataset, workers=1, shard_size=5)
    assert len(ran(job)) < 12  # 5 % of 200 are reached in the fifth shard


@pytest.mark.usefixtures("no_worker")
def test_images_that_vanished_are_skipped_by_name(tmp_path, run):
    dataset = make_dataset(tmp_path / "images", 20)
    Path(dataset.images[7].path).unlink()
    found = run(make_job(tmp_path), dataset, workers=2)
    assert [image.name for image in found.skipped] == ["00007.txt"]
    assert 7 not in found.rows.index
    assert len(found.rows) == 19


def test_empty_data_set(tmp_path, run):
    with pytest.raises(ImagesError, match="has no images"):
        run(make_job(tmp_path), Dataset("nothing", "", ()))


@pytest.mark.parametrize("workers", [0, -1])
def test_impossible_number_of_workers(tmp_path, run, workers):
    with pytest.raises(InputError, match="--workers"):
        run(make_job(tmp_path), make_dataset(tmp_path / "images", 3), workers=workers)


def test_interrupt_ends_everything_at_once_and_can_be_resumed(tmp_path, run):
    """In the middle of shards that would take for ever."""
    gated = gates(range(15, 200), tmp_path / "open")
    dataset = make_dataset(tmp_path / "images", 200, gated)
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    wait_until(lambda: len(list(tmp_path.glob("s/*/*.npz"))) >= 3)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers as well
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert errors.decode().count("Traceback") == 1  # the script's own, none of a worker
    assert b"KeyboardInterrupt" in errors
    (tmp_path / "open").touch()
    found = run(make_job(tmp_path), dataset, workers=2, shard_size=5)
    assert found.resumed_images == 15
    assert found.rows.index.tolist() == list(range(200))


@pytest.mark.usefixtures("no_worker")
class TestProgress:
    def test_shows_images_rate_and_total_on_a_terminal(self, tmp_path, run):
        stream = io.StringIO()
        progress = Progress(show=True)
        progress._console = PlainConsole(file=stream, force_terminal=True, width=120)
        run(
            make_job(tmp_path, milliseconds=5),
            make_dataset(tmp_path / "images", 50),
            workers=1,
            shard_size=5,
            progress=progress,
        )
        text = stream.getvalue()
        assert "50/50" in text
        assert "images/s" in text

    def test_is_quiet_off_a_terminal(self, tmp_path, run, capfd):
        dataset = make_dataset(tmp_path / "images", 10)
        run(make_job(tmp_path), dataset, workers=1, progress=Progress())
        assert capfd.readouterr() == ("", "")


def test_processes_do_not_outlive_the_run(tmp_path, run):
    job = make_job(tmp_path)
    run(job, make_dataset(tmp_path / "images", 10), workers=2, shard_size=2)
    for pid in set(pids(job)):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.usefixtures("no_worker")
def test_results_are_arrays_of_the_documented_types(tmp_path, run):
    found = run(make_job(tmp_path), make_dataset(tmp_path / "images", 12), workers=1)
    assert found.rows.index.dtype == np.int64
    assert found.rows.columns["label"].tolist() == [n % 5 for n in range(12)]
    assert found.rows.sha256.shape == (12, 32)
