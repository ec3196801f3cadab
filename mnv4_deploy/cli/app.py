"""The command ``mnv4-deploy``: its commands, and what becomes of their errors.

Exit codes: 0 done; 1 a limit that was set is exceeded; 2 something given cannot be used, or a
library is missing; 3 a file does not agree with PyTorch, or a device with this machine; 4 a
library or runtime failed; 130 or 143 interrupted; 141 nobody reads the output any more.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from mnv4_deploy.cli import cache, compare, device, drift, export, inspect, models, parity, profile
from mnv4_deploy.cli.config import CONFIG
from mnv4_deploy.cli.extras import missing
from mnv4_deploy.cli.json_output import print_error
from mnv4_deploy.cli.talk import Talk, current, talking
from mnv4_deploy.errors import DeployError, InputError, ToolchainError, UnsupportedError
from mnv4_deploy.profiles.files.own import scratch_folder
from mnv4_deploy.profiles.runtimes.errors import tells_of_memory
from mnv4_deploy.streams import (
    LOG,
    NOBODY_READS,
    complain,
    finish_output,
    full,
    is_full,
    open_standard_streams,
)

_NO_MEMORY = "out of memory: close other programs, or give a smaller --size or --batch."
_COMPILED = "TORCHINDUCTOR_CACHE_DIR"
app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="From PyTorch mobile vision models to verified int8 ONNX and TFLite, and where their "
    "time goes.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        typer.echo(f"mnv4-deploy {metadata.version('mnv4-deploy')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Neither progress nor notes on stderr.")
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", help="Every stage and the traceback of errors on stderr."),
    ] = False,
    log: Annotated[
        Path | None,
        typer.Option(help="Append stages, notes and errors with their traceback to this file."),
    ] = None,
    no_config: Annotated[
        bool,
        typer.Option("--no-config", help=f"Leave {CONFIG} of the current folder unread."),
    ] = False,
) -> None:
    del version, no_config  # one has ended the command, commands read the other
    if quiet and verbose:
        raise UnsupportedError("-q and -v contradict each other: give one.")
    talk = current()
    talk.quiet, talk.verbose = quiet, verbose
    if log is not None:
        talk.log_to(log)


for _command in (export, models, inspect, profile, compare, drift, device, parity, cache):
    _command.register(app)


def _terminate(signum: int, _frame: FrameType | None) -> None:
    """Make SIGTERM unwind the stack, so that staging folders are removed."""
    raise SystemExit(128 + signum)


@contextlib.contextmanager
def _own_temporary_folder() -> Iterator[None]:
    """Let what libraries write for a while be in a folder that goes with this process, or is known
    as ours by later ones. torch makes a folder for compiled code as soon as it is at work."""
    with contextlib.ExitStack() as stack:
        try:
            folder = str(stack.enter_context(scratch_folder()))
        except OSError:  # whoever needs one will say so
            yield
            return
        before = tempfile.tempdir
        compiled = os.environ.setdefault(_COMPILED, folder)
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before
            if compiled == folder:
                del os.environ[_COMPILED]


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the ``mnv4-deploy`` command."""
    signal.signal(signal.SIGTERM, _terminate)
    open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # not every terminal has every character
    words = sys.argv[1:] if arguments is None else arguments
    with talking() as talk:
        _main(words, talk)


def _main(words: Sequence[str], talk: Talk) -> None:
    as_json = "--json" in words[: words.index("--") if "--" in words else None]
    try:
        try:
            _run(words)
        finally:
            finish_output()
    except DeployError as error:
        talk.trace()
        complain(str(error))
        if as_json or talk.as_json:
            print_error(str(error), error.exit_code)
        raise SystemExit(error.exit_code) from None
    except SystemExit as stop:
        # Typer has made an exit code of it, and told what was wrong.
        said = getattr(stop.__context__, "format_message", None)
        if said is not None and (as_json or talk.as_json) and isinstance(stop.code, int):
            print_error(said(), stop.code)
        raise
    except Exception:
        LOG.info("a bug", exc_info=True)
        raise


def _run(words: Sequence[str]) -> None:
    """Do the command; what went wrong becomes a DeployError or an exit code."""
    try:
        with _own_temporary_folder():
            app(list(words))
    except OSError as error:
        if is_full(error):
            raise full(error) from error
        if tells_of_memory(str(error)):
            raise ToolchainError(_NO_MEMORY) from error
        # What nobody expected of a path: no permission on the way to it, a name too long.
        where = f"{error.filename} " if error.filename else ""
        raise InputError(f"{where}cannot be used ({error.strerror or error}).") from error
    except ModuleNotFoundError as error:
        told = missing(error.name or "")
        if told is None:
            raise
        raise told from error
    except ImportError as error:  # of a library that is there, and for which there is no room
        if not tells_of_memory(str(error)):
            raise
        raise ToolchainError(_NO_MEMORY) from error
    except MemoryError as error:
        raise ToolchainError(_NO_MEMORY) from error
    except SystemExit as stop:
        # Typer and rich make 1 of a reader that has gone, such as `head`.
        if isinstance(stop.__context__, BrokenPipeError):
            raise SystemExit(NOBODY_READS) from None
        # Typer makes an exit code of Ctrl-C, and _terminate of SIGTERM.
        if stop.code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
            complain(f"interrupted; {_what_is_kept(stop)}.")
        raise


def _what_is_kept(stop: BaseException) -> str:
    """What the interrupted work noted on the exception that ended it."""
    cause: BaseException | None = stop
    while cause is not None:
        if notes := getattr(cause, "__notes__", None):
            return str(notes[0])
        cause = cause.__context__
    return "nothing was written"


if __name__ == "__main__":
    main()
