"""What can be asked of an Android device: run a program, push a file, pull a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Completed:
    """A program that ended over there.

    A device without the shell v2 protocol (before Android 7) has one stream: ``stderr`` is then
    empty and what the program wrote to it is in ``stdout``.
    """

    code: int
    stdout: str
    stderr: str


class AndroidShell(Protocol):
    """Every method raises ToolchainError where the device is lost or does not answer in time."""

    @property
    def folder(self) -> str:
        """The private folder of this run on the device, such as
        "/data/local/tmp/mnv4-deploy-1f0c9a7e5b3d2468": all files go there, and are removed."""

    def run(self, argv: Sequence[str], timeout_s: float) -> Completed:
        """Run a program; each argument arrives as it is given, whatever characters it has."""

    def push(self, local: Path, remote: str) -> None:
        """Copy a file of this machine to the path ``remote`` over there.

        Raises OutputError where the device's disk is full.
        """

    def pull(self, remote: str) -> bytes:
        """What a file over there holds; ModelFileError where it cannot be read."""
