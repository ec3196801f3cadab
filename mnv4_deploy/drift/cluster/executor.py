"""``--cluster``: the same shards on an existing Dask cluster.

Dask and not Ray: workers start with one command under Slurm, PBS, LSF, Kubernetes or SSH, and
on Arm boards, whose arithmetic is what a phone's is like; it is pure Python, a tenth of Ray's
size. The scheduler moves the shards of a worker that dies to the others.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv4_deploy.drift import environment
from mnv4_deploy.drift.cluster.connection import (
    CONNECT_SECONDS,
    ENCRYPTED,
    WITH_FILES,
    brief,
    connected,
    is_exposed,
    library,
)
from mnv4_deploy.drift.records import Shard, ShardJob
from mnv4_deploy.drift.run_shard import ShardRunner
from mnv4_deploy.drift.shards import FileState, describe
from mnv4_deploy.drift.workers import MakeRunner, Results, ShardExecutor, completed
from mnv4_deploy.errors import ToolchainError
from mnv4_deploy.images.records import Dataset
from mnv4_deploy.profiles.isolated import name_of
from mnv4_deploy.sessions.records import ModelRef

if TYPE_CHECKING:
    from mnv4_deploy.drift.cluster.worker import ProbeReply, ShardPayload

LOST_SECONDS = 60.0
# Images on their way to workers that cannot read them lie in the scheduler's memory.
_BYTES_IN_FLIGHT = 256 << 20

Note = Callable[[str], None]


class ClusterExecutor:
    """The workers of a Dask cluster. Use :func:`cluster_executor`."""

    def __init__(
        self,
        client: Any,
        address: str,
        job: ShardJob,
        states: Sequence[FileState],
        answers: Sequence[ProbeReply],
        runner: MakeRunner,
    ) -> None:
        self.workers: int = sum(client.nthreads().values())
        self.processors = frozenset(answer.processor for answer in answers)
        self._client = client
        self._address = address
        self._job = job
        self._states = states
        self._send_models = not all(answer.sees_models for answer in answers)
        self._send_images = not all(answer.sees_images for answer in answers)
        self._runner = runner
        self._parcel_bytes = 1
        self._plugin_name = ""
        self._workers_seen = time.monotonic()

    def run(self, shards: Iterable[Shard], key: str) -> Results:
        """See ``ShardExecutor``."""
        from mnv4_deploy.drift.cluster.worker import run_payload

        with self._lost_is_explained():
            self._install(key)
        executor = self._client.get_executor(pure=False)
        parcels = map(self._parcel, shards)
        call = partial(run_payload, self._plugin_name)
        with contextlib.closing(
            completed(executor, call, parcels, self._in_flight, self._check_workers)
        ) as done:
            for parcel, future in done:
                self._workers_seen = time.monotonic()
                try:
                    with self._lost_is_explained():
                        result = future.result()
                except library().KilledWorker as error:
                    raise ToolchainError(
                        f"Every worker that took {describe(parcel.shard)} was killed: give the "
                        "workers more memory, or leave these images out."
                    ) from error
                yield result

    def close(self) -> None:
        """End this run's processes on the workers."""
        if self._plugin_name:
            with contextlib.suppress(Exception):  # a cluster that is gone has none
                self._client.unregister_worker_plugin(self._plugin_name)

    def _install(self, key: str) -> None:
        from mnv4_deploy.drift.cluster.worker import ShardPlugin, file_of

        subjects = (self._job.reference, self._job.candidate)
        files = {}
        if self._send_models:
            files = {s.sha256: Path(f).read_bytes() for s in subjects if (f := file_of(s))}
        # The same run started again replaces what it left on the workers when it was killed.
        digest = hashlib.sha256(f"{socket.gethostname()}\0{key}".encode()).hexdigest()
        self._plugin_name = f"mnv4-deploy-{digest[:16]}"
        expected = environment.versions(subject.kind for subject in subjects)
        self._client.register_plugin(
            ShardPlugin(self._plugin_name, self._job, name_of(self._runner), files, expected)
        )

    def _parcel(self, shard: Shard) -> ShardPayload:
        from mnv4_deploy.drift.cluster.worker import ShardPayload

        states = self._states[shard.start : shard.start + len(shard.images)]
        sizes = tuple(state.size_bytes for state in states)
        contents = None
        if self._send_images:
            contents = tuple(_content(image.path) for image in shard.images)
        parcel = ShardPayload(shard, sizes, contents)
        self._parcel_bytes = max(self._parcel_bytes, parcel.size_bytes)
        return parcel

    def _in_flight(self) -> int:
        """Two shards a thread of those that are there now, within the bytes allowed."""
        with self._lost_is_explained():
            threads: int = sum(self._client.nthreads().values())
        return max(1, min(2 * threads, _BYTES_IN_FLIGHT // self._parcel_bytes))

    def _check_workers(self) -> None:
        if self._client.nthreads():
            self._workers_seen = time.monotonic()
        elif time.monotonic() - self._workers_seen > LOST_SECONDS:
            raise ToolchainError(
                f"The cluster at {self._address} has had no workers for {LOST_SECONDS:.0f} s: "
                "start some and give the same command again, which goes on from here."
            )

    @contextlib.contextmanager
    def _lost_is_explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, CancelledError, TimeoutError) as error:
            raise ToolchainError(
                f"The cluster at {self._address} has stopped answering: start it again and give "
                "the same command, which goes on from here."
            ) from error


@contextlib.contextmanager
def cluster_executor(
    address: str,
    job: ShardJob,
    dataset: Dataset,
    states: Sequence[FileState],
    *,
    runner: MakeRunner = ShardRunner,
    note: Note,
) -> Iterator[ShardExecutor]:
    """The workers of the Dask scheduler at ``address``, with what they need for ``job``.

    Model files and images that a worker cannot read under the same path are sent to it; ``note``
    says so, and who can run code where the connection is not encrypted. Raises InputError for an
    address that is not one of a Dask scheduler, does not answer, or does not go with Dask's TLS
    settings here; ToolchainError without workers, for other versions there, and without Dask
    here.
    """
    with connected(address) as client:
        if is_exposed(address):
            note(
                f"{address} is not encrypted: whoever reaches that scheduler can run code on its "
                "workers and, as its answers are unpickled, here as this user; start it with TLS "
                "and give tls://HOST:PORT."
            )
        job = ShardJob(job.task, _absolute(job.reference), _absolute(job.candidate))
        answers = _ask(client, address, job, dataset, states)
        place = ClusterExecutor(client, address, job, states, answers, runner)
        _tell(answers, note)
        try:
            yield place
        finally:
            place.close()


def _ask(
    client: Any,
    address: str,
    job: ShardJob,
    dataset: Dataset,
    states: Sequence[FileState],
) -> list[ProbeReply]:
    """What each worker has. Raises ToolchainError where one cannot do this job."""
    from mnv4_deploy.drift.cluster.worker import WorkerProbe, answer

    try:
        client.wait_for_workers(1, timeout=CONNECT_SECONDS)
    except TimeoutError as error:
        raise ToolchainError(
            f"The cluster at {address} has no workers: start 'dask worker {address}' on each "
            f"machine{f', {WITH_FILES}' if address.startswith(ENCRYPTED) else ''}."
        ) from error
    subjects = (job.reference, job.candidate)
    last = len(dataset.images) - 1
    some = sorted({round(last * part / 7) for part in range(8)})
    images = tuple((dataset.images[i].path, states[i].size_bytes) for i in some)
    expected = environment.versions(subject.kind for subject in subjects)
    answers: dict[str, Any] = client.run(answer, WorkerProbe(subjects, images), on_error="return")
    for worker, found in answers.items():
        if isinstance(found, BaseException):
            raise ToolchainError(
                f"The cluster's worker {worker} cannot load mnv4-deploy ({brief(found)}): "
                f"install {expected['mnv4-deploy']} there."
            ) from found
        _refuse_differences(f"worker {worker}", expected, found.versions)
    try:
        at_scheduler = client.run_on_scheduler(environment.versions)
    except Exception as error:  # whatever its import raised there
        raise ToolchainError(
            f"The scheduler at {address} cannot load mnv4-deploy ({brief(error)}): install "
            f"{expected['mnv4-deploy']} there."
        ) from error
    essential = {name: expected[name] for name in ("mnv4-deploy", "python")}
    _refuse_differences(f"scheduler {address}", essential, at_scheduler)
    return list(answers.values())


def _refuse_differences(who: str, here: dict[str, str], there: dict[str, str]) -> None:
    if found := environment.differences(here, there):
        raise ToolchainError(
            f"The cluster's {who} has other versions, so results could differ: {found}. Install "
            "the same there."
        )


def _tell(answers: Sequence[ProbeReply], note: Note) -> None:
    for what, sees in (
        ("model files", [answer.sees_models for answer in answers]),
        ("images", [answer.sees_images for answer in answers]),
    ):
        if blind := sees.count(False):
            note(
                f"{blind} of {len(sees)} workers cannot read the {what} under the same path: "
                "they are sent."
            )
    if len(kinds := sorted({answer.processor for answer in answers})) > 1:
        names = "; ".join(kinds)
        note(f"the workers' processors differ, so the last digits may too: {names}.")


def _absolute(subject: ModelRef) -> ModelRef:
    """Workers have another working folder."""
    from mnv4_deploy.drift.cluster.worker import file_of, moved

    path = file_of(subject)
    return moved(subject, Path(path).absolute()) if path else subject


def _content(path: str) -> bytes | None:
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError):
        return None
