import os
import signal
from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch
from torch import nn

from mnv4_deploy.models import zoo
from tests.shared import Shared, run_folder


def pytest_configure() -> None:
    # One test process a core is faster than threads that wait for each other. The variable is
    # for the processes that tests start.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # So shells start what runs in the background; what tests interrupt would inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
