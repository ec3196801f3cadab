"""The --json option of every command, and what it prints."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Annotated

import typer

from mnv4_deploy.profiles.runtimes.quiet import write_to_stdout
from mnv4_deploy.text import clean

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]


def print_json(value: object) -> None:
    sys.stdout.write(_document(value))


def print_error(message: str, exit_code: int) -> None:
    """What went wrong, for whoever parses stdout, if it still takes anything."""
    with contextlib.suppress(OSError, ValueError):
        # A thread that is still at work may keep libraries off our streams.
        write_to_stdout(_document({"error": {"message": clean(message), "exit_code": exit_code}}))


def _document(value: object) -> str:
    return json.dumps(value, indent=1, default=str) + "\n"
