"""Against real schedulers and workers: processes of their own, on the loopback interface."""

import json
import socket
import sys
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("distributed")

from mnv4_deploy.drift.cluster import connection as cluster_connection
from mnv4_deploy.drift.cluster import executor as cluster
from mnv4_deploy.drift.run import run_images
from mnv4_deploy.errors import (
    InputError,
    MissingLibraryError,
    ModelFileError,
    ToolchainError,
    WeightsError,
)
from mnv4_deploy.progress import Progress
from tests.drift.fake_shards import FakeRunner, gates, make_dataset, make_job, pids, ran
from tests.drift.nursery import start
from tests.drift.test_run import expected
from tests.drift.test_shards import equal
from tests.processes import alive
from tests.time_limit import PATIENCE_S, in_time, wait_until


@contextmanager
def process(*command, **environment):
    child = start(*command, **environment)
    try:
        yield child
    finally:
        child.kill()


@contextmanager
def a_scheduler(folder, *options):
    file = folder / "scheduler.json"
    with process(
        "distributed.cli.dask_scheduler",
        *("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)),
        *options,
    ) as child:
        wait_until(file.exists)
        wait_until(lambda: file.read_text().endswith("}"))
        yield json.loads(file.read_text())["address"], child


@contextmanager
def a_worker(address, *options, **environment):
    with process(
        "distributed.cli.dask_worker",
        *(address, "--no-nanny", "--nthreads", "1", "--no-dashboard", *options),
        **environment,
    ) as child:
        yield child


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """A machine that is busy is no cluster that is lost."""
    monkeypatch.setattr(cluster_connection, "CONNECT_SECONDS", PATIENCE_S)
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", PATIENCE_S)


@pytest.fixture
def nobody_answers(monkeypatch):
    """However long they are given."""
    monkeypatch.setattr(cluster_connection, "CONNECT_SECONDS", 0.1)


def count(address) -> int:
    with cluster_connection.connected(address) as client:
        return len(client.nthreads())


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    with a_scheduler(tmp_path_factory.mktemp("scheduler")) as (address, _):
        yield address


@pytest.fixture
def workers(scheduler, tmp_path):
    """Start workers with options, wait for them, and wait until they are gone again."""
    with ExitStack() as stack:

        def start(*specs, **environment):
            started = [
                stack.enter_context(
                    a_worker(scheduler, "--local-directory", str(tmp_path), *spec, **environment)
                )
                for spec in specs
            ]
            wait_until(lambda: count(scheduler) == len(specs))
            return started

        yield start
    wait_until(lambda: count(scheduler) == 0)


@pytest.fixture
def run(tmp_path, scheduler):
    def run(job, dataset, **options):
        defaults = {"cluster": scheduler, "store": tmp_path / "s", "runner": FakeRunner}
        return run_images(job, dataset, **{**defaults, **options})

    return run


class Notes(Progress):
    def __init__(self):
        super().__init__(show=False)
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def test_one_of_two_workers_killed_half_way(tmp_path, run, workers, monkeypatch):
    victim, survivor = workers((), ())
    gated = gates(range(100, 200), tmp_path / "open")
    dataset = make_dataset(tmp_path / "images", 200, {11: "bad", **gated})
    job = make_job(tmp_path)
    killed = []

    def kill_half_way():
        wait_until(lambda: len(list(tmp_path.glob("s/*/*.npz"))) >= 20 and len(ran(job)) == 22)
        victim.kill()
        killed.append(len(ran(job)))
        (tmp_path / "open").touch()

    thread = threading.Thread(target=kill_half_way)
    thread.start()
    found = run(job, dataset, shard_size=5)
    thread.join()

    whole = expected(tmp_path, dataset, monkeypatch)
    assert equal(found.rows, whole.rows)
    assert found.skipped == whole.skipped
    assert found.workers == 2
    assert killed[0] == 22  # of forty, twenty done and two begun
    assert 40 < len(ran(job)) < 44  # only what was in the victim's hands ran again
    assert set(ran(job)) == set(range(40))
    assert survivor.alive
    assert len(set(pids(job))) == 2
    # The run's processes and files leave the machines with it.
    wait_until(lambda: not any(map(alive, set(pids(job)))))
    assert list(tmp_path.glob("*/mnv4-deploy-*")) == [] or survivor.alive


@pytest.fixture(scope="class")
def steady(scheduler, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("worker"))
    with a_worker(scheduler, "--local-directory", folder) as child:
        wait_until(lambda: count(scheduler) == 1)
        yield child
    wait_until(lambda: count(scheduler) == 0)


@pytest.mark.usefixtures("steady")
class TestOneWorker:
    def test_relative_paths_mean_this_folder(self, tmp_path, run, monkeypatch):
        dataset = make_dataset(tmp_path / "images", 5)
        job = make_job(tmp_path)
        monkeypatch.chdir(tmp_path)
        relative = replace(
            job,
            reference=replace(job.reference, path="reference.onnx"),
            candidate=replace(job.candidate, path="candidate.onnx"),
        )
        progress = Notes()
        assert len(run(relative, dataset, progress=progress).rows) == 5
        assert progress.notes == []

    def test_errors_of_a_shard(self, tmp_path, run, steady):
        for content, error, words in (
            ("deploy error", WeightsError, r"^the weights are wrong\.$"),
            ("abort", ModelFileError, r"SIGABRT.*images 5 to 9 \('00005.txt'"),
            ("bug", RuntimeError, "ZeroDivisionError"),
        ):
            dataset = make_dataset(tmp_path / "images", 20, {7: content})
            with pytest.raises(error, match=words):
                run(make_job(tmp_path), dataset, shard_size=5)
        assert steady.alive  # a crash in a shard is none of the worker

    def test_address_of_a_worker(self, tmp_path, run, scheduler):
        with cluster_connection.connected(scheduler) as client:
            (address,) = client.nthreads()
        with pytest.raises(InputError, match="is a Dask worker: give its scheduler's address"):
            run(make_job(tmp_path), make_dataset(tmp_path / "images", 5), cluster=address)


@pytest.fixture(scope="class")
def blind(scheduler, tmp_path_factory):
    folder = tmp_path_factory.mktemp("blind")
    options = ("--local-directory", str(folder), "--preload", "tests.drift.other_machine")
    with a_worker(scheduler, *options, MNV4_TEST_MACHINE="blind"):
        wait_until(lambda: count(scheduler) == 1)
        yield folder
    wait_until(lambda: count(scheduler) == 0)


@pytest.mark.usefixtures("blind")
class TestWorkerThatSeesNoFiles:
    def test_files_that_workers_cannot_read_are_sent(self, tmp_path, run, blind, monkeypatch):
        dataset = make_dataset(tmp_path / "images", 20, {11: "bad"})
        Path(dataset.images[3].path).unlink()
        job = make_job(tmp_path)
        progress = Notes()
        found = run(job, dataset, shard_size=5, progress=progress)
        whole = expected(tmp_path, dataset, monkeypatch)
        assert equal(found.rows, whole.rows)
        assert found.skipped == whole.skipped
        assert progress.notes == [
            f"1 of 1 workers cannot read the {what} under the same path: they are sent."
            for what in ("model files", "images")
        ]
        assert list(blind.rglob("mnv4-deploy-*")) == []

    def test_bytes_in_flight_are_bounded(self, tmp_path, run, monkeypatch):
        """Two shards a thread, but no more than the bytes allow."""
        dataset = make_dataset(tmp_path / "images", 30, dict.fromkeys(range(30), "x" * 1000))
        monkeypatch.setattr(cluster, "_BYTES_IN_FLIGHT", 2500)
        limits = []
        in_flight = cluster.ClusterExecutor._in_flight

        def watched(place):
            limits.append(in_flight(place))
            return limits[-1]

        monkeypatch.setattr(cluster.ClusterExecutor, "_in_flight", watched)
        run(make_job(tmp_path), dataset, shard_size=2)
        assert limits[0] == 2
        assert set(limits[1:]) == {1}


def test_worker_that_joins_helps(tmp_path, run, workers, scheduler):
    workers(())
    job = make_job(tmp_path)
    dataset = make_dataset(tmp_path / "images", 20, {0: "wait"})  # for a second process
    with ExitStack() as stack:

        def join():
            wait_until(lambda: ran(job))
            stack.enter_context(a_worker(scheduler, "--local-directory", str(tmp_path)))

        thread = threading.Thread(target=join)
        thread.start()
        found = run(job, dataset, shard_size=5)
        thread.join()
    assert found.rows.index.tolist() == list(range(20))
    assert len(set(pids(job))) == 2


def test_other_versions_are_shown(tmp_path, run, workers):
    import numpy as np

    workers((), ("--preload", "tests.drift.other_machine"), MNV4_TEST_MACHINE="old")
    with pytest.raises(ToolchainError, match="other versions") as caught:
        run(make_job(tmp_path), make_dataset(tmp_path / "images", 5))
    assert f"numpy 0.0.1 (here {np.__version__})" in str(caught.value)
    assert "onnxruntime 0.0.1" in str(caught.value)
    assert ran(make_job(tmp_path)) == []


def test_worker_without_the_package(tmp_path, run, workers):
    broken = tmp_path / "broken" / "mnv4_deploy"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ModuleNotFoundError('there is no mnv4_deploy')")
    workers((), PYTHONPATH=str(broken.parent))
    with pytest.raises(ToolchainError, match=r"cannot load mnv4-deploy .*there is no mnv4_deploy"):
        run(make_job(tmp_path), make_dataset(tmp_path / "images", 5))


def test_no_workers(tmp_path, run, monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.1)
    with pytest.raises(ToolchainError, match="has no workers: start 'dask worker tcp://"):
        run(make_job(tmp_path), make_dataset(tmp_path / "images", 5))


def test_all_workers_lost_and_none_comes(tmp_path, run, workers, monkeypatch):
    monkeypatch.setattr(cluster, "LOST_SECONDS", 0.5)
    monkeypatch.setattr("mnv4_deploy.drift.workers._CHECK_SECONDS", 0.2)
    (worker,) = workers(())
    job = make_job(tmp_path)
    dataset = make_dataset(tmp_path / "images", 200, gates(range(20, 200), tmp_path / "open"))

    def kill():
        wait_until(lambda: len(ran(job)) == 5)
        worker.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(ToolchainError, match=r"has had no workers for .* goes on from here"):
        run(job, dataset, shard_size=5)
    thread.join()
    assert len(list(tmp_path.glob("s/*/*.npz"))) >= 2


@pytest.fixture
def clients(monkeypatch):
    """The connections of runs, as they come."""
    found = []

    @contextmanager
    def connected(address):
        with cluster_connection.connected(address) as client:
            found.append(client)
            yield client

    monkeypatch.setattr(cluster, "connected", connected)
    return found


def test_scheduler_lost(tmp_path, run, clients, capfd):
    folder = tmp_path / "cluster"
    folder.mkdir()
    job = make_job(tmp_path)
    dataset = make_dataset(tmp_path / "images", 200, gates(range(20, 200), tmp_path / "open"))
    with a_scheduler(folder) as (address, child), a_worker(address):
        wait_until(lambda: count(address) == 1)

        def kill():
            wait_until(lambda: len(ran(job)) == 5)
            clients[0]._timeout = 0.5  # for how long it looks for the scheduler
            child.kill()

        thread = threading.Thread(target=kill)
        thread.start()
        with in_time(), pytest.raises(ToolchainError, match="has stopped answering"):
            run(job, dataset, shard_size=5, cluster=address)
        thread.join()
    assert capfd.readouterr() == ("", "")
    (tmp_path / "open").touch()
    assert len(list(tmp_path.glob("s/*/*.npz"))) >= 2
    # The same processors are here, so the run goes on without the cluster.
    found = run(job, make_dataset_again(tmp_path), cluster="", workers=1, shard_size=5)
    assert found.resumed_images >= 10


def make_dataset_again(tmp_path):
    from mnv4_deploy.images.records import Dataset, DatasetImage

    paths = sorted((tmp_path / "images").iterdir())
    return Dataset(
        "made",
        str(tmp_path / "images"),
        tuple(DatasetImage(str(path), path.name, n % 5) for n, path in enumerate(paths)),
    )


@pytest.mark.usefixtures("nobody_answers")
@pytest.mark.parametrize(
    "address",
    [
        "tcp://127.0.0.1:1",
        "127.0.0.1:1",
        "nonsense",
        "http://127.0.0.1:1",
        "tcp://127.0.0.1",
        "x:y",
    ],
)
def test_address_without_a_scheduler(tmp_path, run, address, capfd):
    with in_time(), pytest.raises(InputError, match="No Dask scheduler answers at"):
        run(make_job(tmp_path), make_dataset(tmp_path / "images", 5), cluster=address)
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "s").exists()


@pytest.mark.usefixtures("nobody_answers")
def test_address_of_something_else(tmp_path, run, capfd):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(InputError, match="No Dask scheduler answers"):
            run(make_job(tmp_path), make_dataset(tmp_path / "images", 5), cluster=address)
    assert capfd.readouterr() == ("", "")


def test_ray_address_is_told_what_to_start(tmp_path, run):
    with pytest.raises(
        InputError, match=r"Ray cluster.*'dask worker HOST:8786'.*--cluster tcp://"
    ):
        run(make_job(tmp_path), make_dataset(tmp_path / "i", 5), cluster="ray://head:10001")


def test_without_dask(tmp_path, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingLibraryError, match=r"pip install '\.\[cluster\]'"):
        run(make_job(tmp_path), make_dataset(tmp_path / "images", 5), cluster="tcp://h:8786")
