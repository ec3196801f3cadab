"""Shards in processes of their own, each with one thread in every runtime.

A native crash then costs a process, not the run, and results do not depend on how many
processes there are. The same processes serve a run on this machine and on each machine of a
cluster.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any, Protocol, TypeVar

from mnv4_deploy.drift.environment import processor
from mnv4_deploy.drift.records import Shard, ShardJob, ShardResult
from mnv4_deploy.drift.run_shard import ShardRunner
from mnv4_deploy.drift.shards import describe
from mnv4_deploy.drift.worker_process import Setup
from mnv4_deploy.errors import DeployError, InputError, ModelFileError, ToolchainError
from mnv4_deploy.profiles.isolated import Outcome, child_command, name_of
from mnv4_deploy.profiles.measure.checks import available_cpus

_ONE_THREAD = {
    name: "1"
    for name in (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
    )
}
_CHECK_SECONDS = 5.0
_MODULE = "mnv4_deploy.drift.worker_process"

T = TypeVar("T")
Results = Generator[ShardResult, None, None]


class ShardExecutor(Protocol):
    """Where shards run. ``processors`` are the kinds at work, ``workers`` how many at once."""

    workers: int
    processors: frozenset[str]

    def run(self, shards: Iterable[Shard], key: str) -> Results:
        """Results as they come. ``key`` tells apart the runs of several users of a cluster.

        Raises the DeployErrors of a shard, ModelFileError for one that crashes its process
        twice and ToolchainError where there is not enough memory or the place is lost.
        """


class RunsShards(Protocol):
    """What a worker process makes of a job, once, and then calls shard by shard."""

    def run(self, shard: Shard) -> ShardResult: ...


MakeRunner = Callable[[ShardJob], RunsShards]


class WorkerPool:
    """Worker processes for one job: as many as threads call ``run`` at once."""

    def __init__(self, job: ShardJob, runner: str) -> None:
        self._setup = Setup(job, runner)
        self._lock = threading.Lock()
        self._busy: set[_Child] = set()
        self._idle: list[_Child] = []
        self._closed = False

    def run(self, shard: Shard) -> ShardResult:
        """Raises as ``ShardExecutor.run``, RuntimeError for a bug. Threads may call it at once."""
        try:
            outcome = self._attempt(shard)
        except _DiedError:
            # Once more: it may have been chance, or the system short of memory for a moment.
            try:
                outcome = self._attempt(shard)
            except _DiedError as death:
                raise _explained(death.code, shard, self._setup.job) from death
        at = describe(shard)
        too_large = f"A worker process ran out of memory at {at}: give fewer --workers."
        result: ShardResult = outcome.result(at, ToolchainError(too_large))
        return result

    def close(self) -> None:
        """End all processes at once, whatever they are doing."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            busy, self._busy = self._busy, set()
        for child in busy:
            child.kill()  # the thread that waits for it sees that, and closes it
        for child in idle:
            child.close()

    def _attempt(self, shard: Shard) -> Outcome:
        child = self._take()
        answered = False
        try:
            outcome = child.ask(shard)
            answered = True
            return outcome
        finally:
            with self._lock:
                self._busy.discard(child)
                kept = answered and not self._closed
                if kept:
                    self._idle.append(child)
            if not kept:
                child.close()

    def _take(self) -> _Child:
        with self._lock:
            if self._closed:
                raise ToolchainError("The run has been stopped.")
            child = None
            while self._idle and child is None:
                child = self._idle.pop()
                if not child.alive:
                    child.close()
                    child = None
            child = child or _Child(self._setup)
            self._busy.add(child)
            return child


class LocalExecutor:
    """Worker processes on this machine."""

    def __init__(self, job: ShardJob, workers: int, runner: MakeRunner) -> None:
        self.workers = workers
        self.processors = frozenset({processor()})
        self._crew = WorkerPool(job, name_of(runner))
        self._threads = ThreadPoolExecutor(workers)

    def run(self, shards: Iterable[Shard], key: str) -> Results:  # noqa: ARG002
        ahead = 2 * self.workers
        for _, future in completed(self._threads, self._crew.run, shards, lambda: ahead):
            yield future.result()

    def close(self) -> None:
        self._crew.close()
        self._threads.shutdown(cancel_futures=True)


@contextlib.contextmanager
def local_executor(
    job: ShardJob, *, workers: int | None = None, runner: MakeRunner = ShardRunner
) -> Iterator[ShardExecutor]:
    """``workers`` processes (None: one a CPU); they end with the block or with this process.

    Raises InputError for less than one.
    """
    if workers is not None and workers < 1:
        raise InputError(f"--workers {workers} is not possible: give 1 or more.")
    place = LocalExecutor(job, workers or len(available_cpus()), runner)
    try:
        yield place
    finally:
        place.close()


def completed(
    executor: Executor,
    call: Callable[[T], ShardResult],
    tasks: Iterable[T],
    in_flight: Callable[[], int],
    when_idle: Callable[[], None] = lambda: None,
) -> Generator[tuple[T, Future[ShardResult]], None, None]:
    """Each task with its future, as they are done; at most ``in_flight`` are submitted at once.

    ``when_idle`` is called when nothing has been done for some seconds.
    """
    remaining = iter(tasks)
    pending: dict[Future[ShardResult], T] = {}
    try:
        while True:
            for task in islice(remaining, max(0, in_flight() - len(pending))):
                pending[executor.submit(call, task)] = task
            if not pending:
                return
            done, _ = wait(pending, timeout=_CHECK_SECONDS, return_when=FIRST_COMPLETED)
            if not done:
                when_idle()
            # Those that failed last: whoever stops at the first of them has kept the others.
            for future in sorted(done, key=_has_failed):
                yield pending.pop(future), future
    finally:
        for future in pending:
            future.cancel()


def _has_failed(future: Future[ShardResult]) -> bool:
    return future.cancelled() or future.exception() is not None


class _DiedError(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class _Child:
    """One worker process."""

    def __init__(self, setup: Setup) -> None:
        try:
            self._process = subprocess.Popen(
                child_command(_MODULE),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # Chatter of native libraries would break the progress line.
                stderr=subprocess.DEVNULL,
                env={**os.environ, **_ONE_THREAD},
            )
        except OSError as error:
            raise ToolchainError(
                f"A worker process cannot be started ({error.strerror}): give fewer --workers."
            ) from error
        with contextlib.suppress(OSError):  # it died already: ``ask`` will tell
            self._send(setup)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, shard: Shard) -> Outcome:
        """Raises _DiedError if the process ends before it answers."""
        assert self._process.stdout is not None
        try:
            self._send(shard)
            outcome: Outcome = pickle.load(self._process.stdout)
        except (OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
            self._process.kill()  # half an answer: whatever it still does is of no use
            raise _DiedError(self._process.wait()) from error
        return outcome

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        """For the thread that has it: end it and give its pipes back."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # what could not be sent to a dead process
                assert pipe is not None
                pipe.close()

    def _send(self, message: Any) -> None:
        assert self._process.stdin is not None
        pickle.dump(message, self._process.stdin)
        self._process.stdin.flush()


def _explained(code: int, shard: Shard, job: ShardJob) -> DeployError:
    where = f"{describe(shard)}, at the second attempt too"
    if code == -signal.SIGKILL:
        return ToolchainError(
            f"A worker process was killed at {where}, probably for lack of memory: give fewer "
            "--workers."
        )
    if code >= 0:  # no crash: our own code could not be loaded, or a library gave up
        return ToolchainError(
            f"A worker process ended with exit code {code} at {where}: check that mnv4-deploy and "
            "the runtimes are installed as they should be."
        )
    return ModelFileError(
        f"{job.reference.name} or {job.candidate.name} made its runtime crash "
        f"({signal.Signals(-code).name}) at {where}: leave these images out, or give other files."
    )
