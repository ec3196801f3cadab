"""Where a PyTorch network comes from: a name of the zoo, or anything else that can load one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from mnv4_deploy.models.weights import ReferenceModel


# What ``load_reference`` takes besides a path.
_NO_FILE = ("bundled", "pypi", "timm", "random")


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
        from mnv4_deploy.models import zoo

        zoo.entry(self.name)
        if self.size is not None:
            zoo.check_size(self.name, self.size)

    def load(self, size: tuple[int, int] | None = None) -> ReferenceModel:
        from mnv4_deploy.models.weights import load_reference

        return load_reference(
            self.name, self.weights, size=size or self.size, num_classes=self.num_classes
        )
