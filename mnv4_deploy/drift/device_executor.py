"""``--device``: the same shards with the files on a device, a PyTorch model here.

Two shards are under way at once, which take turns on the device: while it works for one, images
of the other are read and resized here, and PyTorch runs.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mnv4_deploy.device.device import Array, Device, TensorSession
from mnv4_deploy.drift.environment import processor
from mnv4_deploy.drift.records import Shard, ShardJob, ShardResult
from mnv4_deploy.drift.run_shard import ShardRunner
from mnv4_deploy.drift.shards import describe
from mnv4_deploy.drift.workers import Results, completed
from mnv4_deploy.errors import DeployError, ModelFileError, ToolchainError
from mnv4_deploy.sessions.image_runner import device_image_runner
from mnv4_deploy.sessions.open import LoadedModel, open_runner
from mnv4_deploy.sessions.records import ModelRef

_AT_ONCE = 2
# What a device may still take for the inference that it is in when a run is stopped.
_LAST_SECONDS = 5.0


class DeviceExecutor:
    """An open device. Use :func:`device_executor`. ``runtimes`` are those that run the files."""

    workers = 1

    def __init__(self, job: ShardJob, device: Device) -> None:
        self._device = device
        self._turn = threading.Lock()
        self._stopped = False
        self._sessions: list[TensorSession] = []
        self._here: set[str] = set()
        try:
            self._runner = ShardRunner(job, self._load)
        except BaseException:
            self._close_sessions()
            raise
        self.runtimes = tuple(dict.fromkeys(session.runtime for session in self._sessions))
        there = f"device {device.facts.fingerprint} with {', '.join(self.runtimes)}"
        self.processors = frozenset({there, *self._here})
        self._threads = ThreadPoolExecutor(
            _AT_ONCE, initializer=_one_torch_thread if self._here else None
        )

    def run(self, shards: Iterable[Shard], key: str) -> Results:  # noqa: ARG002
        """See ``ShardExecutor``; the files are freed when it ends."""
        try:
            for _, future in completed(
                self._threads, self._finished, shards, lambda: _AT_ONCE + 1
            ):
                yield future.result()
        finally:
            self.close()

    def close(self) -> None:
        """Stop after the inference that the device is in; a second call does nothing."""
        self._stopped = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        # A device that hangs keeps its turn: closing the device itself then ends it all.
        if self._turn.acquire(timeout=_LAST_SECONDS):
            try:
                self._close_sessions()
            finally:
                self._turn.release()

    def _load(self, subject: ModelRef) -> LoadedModel:
        if subject.kind == "torch":
            self._here.add(processor())
            return open_runner(subject)
        session = self._device.open(Path(subject.path))
        self._sessions.append(session)

        def run(inputs: Sequence[Array]) -> tuple[Array, ...]:
            with self._turn:
                if self._stopped:
                    raise ToolchainError("The run has been stopped.")
                return session.run(inputs)

        return device_image_runner(subject, run)

    def _finished(self, shard: Shard) -> ShardResult:
        try:
            return self._runner.run(shard)
        except ModelFileError as error:
            raise ModelFileError(
                f"{self._device.facts.title} failed at {describe(shard)}: {error}"
            ) from error
        except ToolchainError as error:
            raise ToolchainError(
                f"{str(error).rstrip('.')}; the images that are done are kept, and the same "
                "command goes on from them."
            ) from error

    def _close_sessions(self) -> None:
        while self._sessions:
            # Of a device that is gone nothing is left to be freed.
            with contextlib.suppress(DeployError):
                self._sessions.pop().close()


@contextlib.contextmanager
def device_executor(job: ShardJob, device: Device) -> Iterator[DeviceExecutor]:
    """``device`` with the files of ``job`` loaded on it; it stays open itself.

    Raises ModelFileError for a file that its runtime there does not accept, UnsupportedError for
    a device that cannot run tensors, ToolchainError where it has no runtime or is lost.
    """
    place = DeviceExecutor(job, device)
    try:
        yield place
    finally:
        place.close()


def _one_torch_thread() -> None:
    """OpenMP keeps the number of threads for each thread that calls it."""
    import torch

    torch.set_num_threads(1)
