"""All images through both subjects: here or on a cluster, taken up where a killed run stopped."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mnv4_deploy.drift.records import Shard, ShardJob, ShardResult
from mnv4_deploy.drift.run_shard import ShardRunner, too_many_skipped
from mnv4_deploy.drift.shards import (
    FileState,
    cut,
    file_states,
    identity,
    joined,
    usual_shard_size,
)
from mnv4_deploy.drift.store import ShardStore, opened, store_folder
from mnv4_deploy.drift.workers import MakeRunner, ShardExecutor, local_executor
from mnv4_deploy.errors import ImagesError
from mnv4_deploy.images.records import Dataset, SkippedImage
from mnv4_deploy.progress import Progress
from mnv4_deploy.tasks.rows import ImageRows


@dataclass(frozen=True)
class ImageRun:
    """What came of all images. ``rows`` have the same bits however the work was shared out.

    ``resumed_images`` were done by an earlier run that was killed; ``seconds`` and
    ``images_per_second`` are about the others. ``workers`` is how many ran at once.
    """

    rows: ImageRows
    skipped: tuple[SkippedImage, ...]
    resumed_images: int
    seconds: float
    images_per_second: float
    workers: int


def run_images(
    job: ShardJob,
    dataset: Dataset,
    *,
    workers: int | None = None,
    cluster: str = "",
    store: Path | None = None,
    progress: Progress | None = None,
    runner: MakeRunner = ShardRunner,
    shard_size: int | None = None,
) -> ImageRun:
    """Run every image; the finished shards on disk go when all are done.

    ``workers`` is the number of processes here (None: one a CPU), ``cluster`` the address of a
    Dask scheduler to use instead. ``store`` is the folder for finished shards (None: the user's
    cache folder). ``runner`` is what a worker calls with ``job``.

    Raises:
        ImagesError: there are no images, or too many cannot be used.
        OutputError: ``store`` cannot be written, or the same run is under way elsewhere.
        ModelFileError: a model file crashes its runtime.
        ToolchainError: the cluster cannot be used or was lost, or memory is short.
    """
    with open_run(
        job,
        dataset,
        workers=workers,
        cluster=cluster,
        store=store,
        progress=progress,
        runner=runner,
        shard_size=shard_size,
    ) as run:
        return run


@contextlib.contextmanager
def open_run(
    job: ShardJob,
    dataset: Dataset,
    *,
    workers: int | None = None,
    cluster: str = "",
    place: ShardExecutor | None = None,
    store: Path | None = None,
    progress: Progress | None = None,
    runner: MakeRunner = ShardRunner,
    shard_size: int | None = None,
) -> Iterator[ImageRun]:
    """:func:`run_images` for a block that goes on from the results.

    Finished shards stay on disk until the block ends well: if it is killed, its images need not
    run again. ``place`` is where to run them instead of here or on a cluster.
    """
    if not dataset.images:
        raise ImagesError(f"{dataset.name} has no images: give a folder that has some.")
    progress = progress or Progress(show=False)
    states = file_states(dataset)
    size = shard_size or usual_shard_size(len(dataset.images))
    with contextlib.ExitStack() as stack:
        place = place or stack.enter_context(
            _place(job, dataset, states, workers, cluster, runner, progress)
        )
        key = identity(job, dataset, states, size, place.processors)
        finished = stack.enter_context(opened(store or store_folder(None), key))
        shards = cut(dataset, size)
        try:
            yield _run(place, dataset, shards, finished, progress)
        except (KeyboardInterrupt, SystemExit) as stop:
            if kept := finished.kept(shards):
                stop.add_note(
                    f"{kept:,} of {len(dataset.images):,} images kept: give the same command "
                    "again to go on"
                )
            raise
        except ImagesError:
            finished.remove()  # the images must change, and then it is another run
            raise
        finished.remove()


def _place(
    job: ShardJob,
    dataset: Dataset,
    states: Sequence[FileState],
    workers: int | None,
    cluster: str,
    runner: MakeRunner,
    progress: Progress,
) -> contextlib.AbstractContextManager[ShardExecutor]:
    if not cluster:
        return local_executor(job, workers=workers, runner=runner)
    from mnv4_deploy.drift.cluster.executor import cluster_executor

    return cluster_executor(cluster, job, dataset, states, runner=runner, note=progress.note)


def _run(
    place: ShardExecutor,
    dataset: Dataset,
    shards: Sequence[Shard],
    store: ShardStore,
    progress: Progress,
) -> ImageRun:
    total = len(dataset.images)
    done: dict[int, ShardResult] = {}
    for shard in shards:
        if (result := store.load(shard)) is not None:
            done[shard.index] = result
    skipped = [image for result in done.values() for image in result.skipped]
    too_many_skipped(skipped, total)
    missing = [shard for shard in shards if shard.index not in done]
    todo = sum(len(shard.images) for shard in missing)
    started = time.perf_counter()
    with (
        progress.images(total, done=total - todo) as advance,
        contextlib.closing(place.run(missing, str(store.folder))) as results,
    ):
        for result in results:
            store.save(shards[result.index], result)
            done[result.index] = result
            skipped += result.skipped
            # As soon as it is certain: the skipped ones only become more.
            too_many_skipped(skipped, total)
            advance(len(shards[result.index].images))
    seconds = time.perf_counter() - started
    rows, missed = joined(done.values())
    return ImageRun(rows, missed, total - todo, seconds, todo / seconds, place.workers)
