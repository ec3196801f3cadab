from functools import cache
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mnv4_deploy.models import checkpoint_file, zoo


@cache
def _shapes(name: str, num_classes: int) -> nn.Module:
    with torch.device("meta"):
        return zoo.build(name, num_classes=num_classes)


@pytest.fixture
def fitting_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """All networks are built once a process, not for each checkpoint that may be one's."""

    def build(name: str, *, num_classes: int) -> nn.Module:
        return _shapes(name, num_classes)

    monkeypatch.setattr(checkpoint_file, "zoo", SimpleNamespace(names=zoo.names, build=build))
