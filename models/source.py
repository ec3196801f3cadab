"""Where a PyTorch network comes from: a name of the zoo, or anything else that can load one."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from mnv4_deploy.errors import UnknownModelError, UnsupportedError
from mnv4_deploy.models import zoo

if TYPE_CHECKING:
    from mnv4_deploy.models.weights import ReferenceModel


# What can be done with a network that is nobody's here.
OTHER_NETWORKS = (
    "any other network can be written as .onnx with torch.onnx.export, and inspect, profile, "
    "compare and drift take that file."
)
# What ``load_reference`` takes besides a path.
_NO_FILE = ("bundled", "pypi", "timm", "random")


@runtime_checkable
class ModelSource(Protocol):
    """A frozen dataclass of plain values: worker processes load the network themselves.

    ``name`` is what its files are called, ``weights`` which weights, in words for the user,
    ``file`` the user's file that it is read from, "" if there is none.
    """

    @property
    def name(self) -> str: ...

    @property
    def weights(self) -> str: ...

    @property
    def file(self) -> str: ...

    def read_from(self, path: Path) -> ModelSource:
        """The same with its file at ``path``."""

    def check(self) -> None:
        """Raise InputError for what can be found wrong before anything is loaded."""

    def load(self, size: tuple[int, int] | None = None) -> ReferenceModel:
        """The network, in eval mode, for images of ``size`` (height, width; None: its own).

        Raises InputError (WeightsError, UnknownModelError) where that cannot be done.
        """


def as_source(
    model: object,
    weights: str = "bundled",
    num_classes: int | None = None,
    size: tuple[int, int] | None = None,
) -> ModelSource:
    """What ``model`` names, or itself if it is a source already; the rest is a named one's.

    timm's name of a checkpoint chooses that one where ``weights`` say nothing else. A name that
    is nobody's stays as it is: ``check`` refuses it.

    Raises UnsupportedError for anything else, such as a network in memory.
    """
    if isinstance(model, str | os.PathLike):
        name = os.fspath(model)
        if not isinstance(name, str):
            name = os.fsdecode(name)
        try:
            own = zoo.entry(name).name
        except UnknownModelError:
            return ZooSource(name, weights, num_classes, size)
        tag = "" if own == name else zoo.split_tag(name)[1]
        chosen = f"timm:{tag}" if tag and weights in ("bundled", "timm") else weights
        return ZooSource(own, chosen, num_classes, size)
    if isinstance(model, type) or not isinstance(model, ModelSource):
        raise UnsupportedError(f"{_described(model)}; {OTHER_NETWORKS}")
    return model


def _described(model: object) -> str:
    kind = model.__name__ if isinstance(model, type) else type(model).__name__
    return (
        f"A model is given by a name that `mnv4-deploy models` lists, and {kind} is none: of one "
        "of those networks save the state_dict and give that file as weights"
    )


@dataclass(frozen=True)
class ZooSource:
    """A network of the zoo; the fields are those of ``models.weights.load_reference``."""

    name: str
    weights: str = "bundled"
    num_classes: int | None = None
    size: tuple[int, int] | None = None

    @property
    def file(self) -> str:
        return "" if self.weights.partition(":")[0] in _NO_FILE else self.weights

    def read_from(self, path: Path) -> ZooSource:
        return replace(self, weights=str(path)) if self.file else self

    def check(self) -> None:
        zoo.entry(self.name)
        if self.size is not None:
            zoo.check_size(self.name, self.size)

    def load(self, size: tuple[int, int] | None = None) -> ReferenceModel:
        from mnv4_deploy.models.weights import load_reference

        return load_reference(
            self.name, self.weights, size=size or self.size, num_classes=self.num_classes
        )
