import os
import signal
from collections.abc import Callable, Iterator
from functools import cache, partial
from multiprocessing.util import get_temp_dir

import pytest
import torch
from torch import nn

from mnv4_deploy.models import zoo
from mnv4_deploy.profiles import isolated
from tests.command import run_command
from tests.converted import once
from tests.forked_child import run_forked
from tests.hybrid_export import Export, hybrid_export
from tests.no_child import run_here
from tests.shared import Shared, run_folder
from tests.torch_tables import make_once

_FRESH = isolated.run_isolated_with_log


def pytest_configure() -> None:
    # One test process a core is faster than threads that wait for each other. The variable is
    # for the processes that tests start.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    make_once()
    # Before a test has a temporary folder of its own: the server of forks keeps its socket there.
    get_temp_dir()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # So shells start what runs in the background; what tests interrupt would inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Who looks at the export that takes a minute comes first: that is one process then, and no
    other waits for it."""
    items.sort(key=lambda item: "hybrid_files" not in getattr(item, "fixturenames", ()))


@cache
def _random_module(name: str) -> nn.Module:
    from mnv4_deploy.models.randomize import randomize

    module = zoo.build(name)
    randomize(module, 0)
    return module


@pytest.fixture(scope="session")
def random_module() -> Callable[[str], nn.Module]:
    """A model by name with no dead branch, built once for all tests; do not change it."""
    return _random_module


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """Files that are made once a run, whatever processes it has; do not change them."""
    found = Shared(run_folder(tmp_path_factory.getbasetemp()))
    yield found
    assert found.changed() == []


@pytest.fixture(scope="session")
def hybrid_files(shared: Shared) -> Export:
    return hybrid_export(shared)


@pytest.fixture(autouse=True)
def forked_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """Isolated functions run in forks of a process that has their libraries."""
    monkeypatch.setattr(isolated, "run_isolated_with_log", run_forked)


@pytest.fixture
def fresh_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """Isolated functions run in fresh processes, as they do for users."""
    monkeypatch.setattr(isolated, "run_isolated_with_log", _FRESH)


@pytest.fixture
def no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """Isolated functions run in this process; not for tests of damaged files or of isolation."""
    monkeypatch.setattr(isolated, "run_isolated_with_log", run_here)


@pytest.fixture
def no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drift on this machine starts no worker processes; not for tests of those."""
    from mnv4_deploy.drift import workers
    from tests.no_worker import WorkerHere

    monkeypatch.setattr(workers, "_Child", WorkerHere)


@pytest.fixture
def converted_once(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pipelines that convert a network again get the file of the first time."""
    from mnv4_deploy.exporters.to_onnx import write as to_onnx
    from mnv4_deploy.exporters.to_onnx.convert import export_onnx
    from mnv4_deploy.exporters.to_tflite import write as to_tflite
    from mnv4_deploy.exporters.to_tflite.convert import export_tflite

    monkeypatch.setattr(to_onnx, "export_onnx", once(export_onnx, shared))
    monkeypatch.setattr(to_tflite, "export_tflite", once(export_tflite, shared))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[object, str, str]]:
    """The command in this process: its exit code, and what it printed and said."""
    return partial(run_command, capsys)
