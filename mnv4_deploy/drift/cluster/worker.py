"""What runs on the machines of a Dask cluster: a plugin of each worker keeps a run's processes."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from distributed import Worker, WorkerPlugin, get_worker

from mnv4_deploy.drift import environment
from mnv4_deploy.drift.records import Shard, ShardJob, ShardResult
from mnv4_deploy.drift.shards import describe
from mnv4_deploy.drift.workers import WorkerPool
from mnv4_deploy.errors import ToolchainError
from mnv4_deploy.profiles.files.own import make_own, remove
from mnv4_deploy.sessions.records import ModelRef


@dataclass(frozen=True)
class WorkerProbe:
    """What a worker is asked before the run. ``images`` are paths and sizes of some of them."""

    subjects: tuple[ModelRef, ...]
    images: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class ProbeReply:
    """What a worker has, and which of the run's files it can read itself."""

    versions: dict[str, str]
    processor: str
    sees_models: bool
    sees_images: bool


@dataclass(frozen=True)
class ShardPayload:
    """A shard on its way: with the images' bytes, or with the sizes that files there must have.

    ``contents`` is None where workers read the images themselves; one of its entries is None,
    and one of ``sizes`` -1, for a file that cannot be read at home either.
    """

    shard: Shard
    sizes: tuple[int, ...]
    contents: tuple[bytes | None, ...] | None

    @property
    def size_bytes(self) -> int:
        return sum(len(content or b"") for content in self.contents or ())


def answer(question: WorkerProbe) -> ProbeReply:
    """Run by each worker."""
    return ProbeReply(
        environment.versions(subject.kind for subject in question.subjects),
        environment.processor(),
        all(_is_here(subject) for subject in question.subjects),
        all(_size(path) == size for path, size in question.images),
    )


def file_of(subject: ModelRef) -> str:
    """The path of the file that ``subject`` is read from; "" if it is none of the user's."""
    return subject.path if subject.source is None else subject.source.file


def moved(subject: ModelRef, path: Path) -> ModelRef:
    """``subject`` read from ``path``."""
    if subject.source is None:
        return replace(subject, path=str(path))
    return replace(subject, source=subject.source.read_from(path))


def run_payload(name: str, parcel: ShardPayload) -> ShardResult:
    """Run by a worker's thread: the task that Dask shares out."""
    plugin = get_worker().plugins[name]
    assert isinstance(plugin, ShardPlugin)
    return plugin.run(parcel)


class ShardPlugin(WorkerPlugin):
    """One run's presence on a worker, also on one that joins later.

    ``files`` has the bytes of model files by sha256, of those that some worker cannot read.
    ``expected`` are the versions that results need.
    """

    def __init__(
        self,
        name: str,
        job: ShardJob,
        runner: str,
        files: Mapping[str, bytes],
        expected: dict[str, str],
    ) -> None:
        self.name = name
        self._job = job
        self._runner = runner
        self._files = files
        self._expected = expected
        self._refusal = ""

    def setup(self, worker: Worker) -> None:
        self._address = worker.address
        kinds = (self._job.reference.kind, self._job.candidate.kind)
        if differing := environment.differences(self._expected, environment.versions(kinds)):
            self._refusal = f"has {differing}: install the same there"
        self._folder = make_own(Path(worker.local_directory))
        job = self._job
        try:
            job = ShardJob(job.task, self._local(job.reference), self._local(job.candidate))
        except OSError as error:
            self._refusal = f"cannot keep the model files in {self._folder} ({error.strerror})"
        self._crew = WorkerPool(job, self._runner)

    def teardown(self, worker: Worker) -> None:  # noqa: ARG002
        self._crew.close()
        remove(self._folder)

    def run(self, parcel: ShardPayload) -> ShardResult:
        if self._refusal:
            raise ToolchainError(f"The cluster's worker {self._address} {self._refusal}.")
        if parcel.contents is not None:
            try:
                return self._run_sent(parcel.shard, parcel.contents)
            except OSError as error:
                raise ToolchainError(
                    f"The cluster's worker {self._address} cannot keep images in {self._folder} "
                    f"({error.strerror}): free some space there."
                ) from error
        for image, size in zip(parcel.shard.images, parcel.sizes, strict=True):
            if _size(image.path) != size:
                raise ToolchainError(
                    f"The cluster's worker {self._address} does not see {image.path!r} as it is "
                    f"here, in {describe(parcel.shard)}: leave the images alone while they are in "
                    "use, and give the same command again."
                )
        return self._crew.run(parcel.shard)

    def _run_sent(self, shard: Shard, contents: tuple[bytes | None, ...]) -> ShardResult:
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            images = []
            for number, (image, content) in enumerate(zip(shard.images, contents, strict=True)):
                path = Path(folder) / f"{number}{Path(image.name).suffix}"
                if content is not None:
                    path.write_bytes(content)
                images.append(replace(image, path=str(path)))
            return self._crew.run(replace(shard, images=tuple(images)))

    def _local(self, subject: ModelRef) -> ModelRef:
        if _is_here(subject):
            return subject
        content = self._files.get(subject.sha256)
        if content is None:
            self._refusal = (
                f"cannot read {file_of(subject)!r}: give the same command again, which then "
                "sends the file"
            )
            return subject
        path = self._folder / f"{subject.sha256}{Path(file_of(subject)).suffix}"
        path.write_bytes(content)
        return moved(subject, path)


def _is_here(subject: ModelRef) -> bool:
    if not (path := file_of(subject)):
        return True
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == subject.sha256
    except (OSError, ValueError):
        return False


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except (OSError, ValueError):
        return -1
