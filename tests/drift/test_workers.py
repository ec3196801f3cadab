import os
import signal
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from mnv4_deploy.drift.shards import cut, joined
from mnv4_deploy.drift.workers import completed, local_executor
from mnv4_deploy.errors import InputError, ModelFileError, ToolchainError, WeightsError
from mnv4_deploy.profiles.measure.checks import available_cpus
from tests.drift.fake_shards import FakeRunner, log_of, make_dataset, make_job, pids, ran
from tests.drift.test_shards import equal
from tests.processes import alive
from tests.time_limit import PATIENCE_S, wait_until


def run(job, shards, workers, runner=FakeRunner):
    with (
        local_executor(job, workers=workers, runner=runner) as place,
        closing(place.run(shards, "")) as results,
    ):
        return list(results)


def test_results_are_those_of_this_process(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    dataset = make_dataset(tmp_path / "images", 30, {4: "bad"})
    job = make_job(tmp_path)
    expected = FakeRunner(make_job(tmp_path, log="here")).run(cut(dataset, 30)[0])
    for workers, size in ((1, 30), (3, 4)):
        results, skipped = joined(run(job, cut(dataset, size), workers))
        assert equal(results, expected.rows)
        assert skipped == expected.skipped
    # One thread in every runtime, whatever the user's environment says.
    threads = {line.split()[2] for line in Path(log_of(job)).read_text().splitlines()}
    assert threads == {"1"}


def test_processes_are_kept_shared_out_and_ended(tmp_path):
    job = make_job(tmp_path, milliseconds=20)
    run(job, cut(make_dataset(tmp_path / "images", 24), 2), 3)
    assert len(set(pids(job))) == 3
    assert os.getpid() not in pids(job)
    assert not any(map(alive, pids(job)))


def test_no_more_than_two_shards_a_worker_are_taken_ahead(tmp_path):
    shards = cut(make_dataset(tmp_path / "images", 40), 1)
    taken = []

    def watched():
        for shard in shards:
            taken.append(shard.index)
            yield shard

    with (
        local_executor(make_job(tmp_path), workers=2, runner=FakeRunner) as place,
        closing(place.run(watched(), "")) as results,
    ):
        for done, _ in enumerate(results, 1):
            assert len(taken) <= done + 4
    assert taken == list(range(40))


def test_crash_by_chance_is_tried_again_in_a_fresh_process(tmp_path):
    dataset = make_dataset(tmp_path / "images", 9, {4: "abort once"})
    job = make_job(tmp_path)
    results, _ = joined(run(job, cut(dataset, 3), 1))
    assert results.index.tolist() == list(range(9))
    assert ran(job) == [0, 1, 1, 2]
    assert len(set(pids(job))) == 2


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        ("abort", ModelFileError, "reference or candidate made its runtime crash .SIGABRT."),
        ("kill", ToolchainError, "lack of memory: give fewer --workers"),
    ],
)
def test_poison_names_its_images(tmp_path, content, error, words):
    job = make_job(tmp_path)
    dataset = make_dataset(tmp_path / "images", 12, {7: content})
    with pytest.raises(error, match=words) as caught:
        run(job, cut(dataset, 3), 2)
    assert "images 6 to 8 ('00006.txt' … '00008.txt')" in str(caught.value)
    assert ran(job).count(2) == 2
    assert not any(map(alive, pids(job)))


def test_errors_for_the_user_come_out_as_themselves(tmp_path):
    dataset = make_dataset(tmp_path / "images", 6, {2: "deploy error"})
    with pytest.raises(WeightsError, match=r"^the weights are wrong\.$"):
        run(make_job(tmp_path), cut(dataset, 3), 2)


def test_lack_of_memory_names_its_images_and_is_not_tried_again(tmp_path):
    job = make_job(tmp_path)
    dataset = make_dataset(tmp_path / "images", 12, {7: "memory"})
    with pytest.raises(ToolchainError, match=r"out of memory at .*: give fewer") as caught:
        run(job, cut(dataset, 3), 2)
    assert "images 6 to 8 ('00006.txt' … '00008.txt')" in str(caught.value)
    assert ran(job).count(2) == 1


def test_error_while_the_runner_is_built(tmp_path):
    job = make_job(tmp_path)
    Path(job.candidate.path).write_text("damaged")
    with pytest.raises(WeightsError, match="is not candidate"):
        run(job, cut(make_dataset(tmp_path / "images", 3), 3), 1)


def test_bug_shows_its_traceback(tmp_path):
    dataset = make_dataset(tmp_path / "images", 6, {2: "bug"})
    with pytest.raises(RuntimeError, match=r"(?s)images 0 to 2 .*ZeroDivisionError: a bug"):
        run(make_job(tmp_path), cut(dataset, 3), 2)


def test_less_than_one_worker(tmp_path):
    with (
        pytest.raises(InputError, match="--workers 0"),
        local_executor(make_job(tmp_path), workers=0, runner=FakeRunner),
    ):
        pass


def test_one_worker_a_usable_cpu(tmp_path):
    with local_executor(make_job(tmp_path), runner=FakeRunner) as place:
        assert place.workers == len(available_cpus()) == len(os.sched_getaffinity(0))


SCRIPT = """
import sys
from pathlib import Path
from mnv4_deploy.drift.shards import cut
from mnv4_deploy.drift.workers import local_executor
from tests.drift.fake_shards import FakeRunner, make_dataset, make_job
folder = Path(sys.argv[1])
job = make_job(folder, milliseconds=3_600_000)
dataset = make_dataset(folder / "images", 2)
with local_executor(job, workers=2, runner=FakeRunner) as place:
    list(place.run(cut(dataset, 1), ""))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_workers_end_with_their_parent_in_the_middle_of_a_shard(tmp_path, how):
    parent = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
    )
    job = make_job(tmp_path)
    wait_until(lambda: len(pids(job)) == 2)
    parent.send_signal(how)
    assert parent.wait(timeout=PATIENCE_S) in (-how, 130)
    wait_until(lambda: not any(map(alive, pids(job))))


def test_completed_says_when_nothing_happens(monkeypatch):
    from concurrent.futures import ThreadPoolExecutor

    from mnv4_deploy.drift import workers

    monkeypatch.setattr(workers, "_CHECK_SECONDS", 0.01)
    idle = []
    twice_idle = threading.Event()

    def nothing_done():
        idle.append(1)
        if len(idle) == 2:
            twice_idle.set()

    def wait(task):
        return task if twice_idle.wait(PATIENCE_S) else "late"

    with ThreadPoolExecutor(1) as threads:
        done = completed(threads, wait, ["task"], lambda: 1, nothing_done)
        assert [(task, future.result()) for task, future in done] == [("task", "task")]
