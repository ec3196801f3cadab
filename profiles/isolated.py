"""Run a function in a child process, so that a native crash is an error and not ours.

LiteRT and onnxruntime may abort, segfault or hang on a hostile file. The child imports only
what the function needs. Request and result travel as pickles between two processes of one user
running the same code; nothing of the inspected file is unpickled.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from mnv4_deploy.errors import DeployError, ModelFileError, ToolchainError
from mnv4_deploy.profiles.files.own import scratch_folder
from mnv4_deploy.profiles.runtimes.errors import tells_of_memory

if TYPE_CHECKING:
    # Python has these since 3.11, and a device, which never comes here, may have an older one.
    from typing import TypeVarTuple, Unpack  # novermin

    Ts = TypeVarTuple("Ts")
T = TypeVar("T")

DEFAULT_TIMEOUT_S = 120.0
# A damaged shape can ask for any amount of memory: fail in the child before the machine swaps.
CHILD_MEMORY_BYTES = 16 << 30
_LEAST_MEMORY_BYTES = 512 << 20
_OUTCOME_FILE = "outcome.pickle"
_MODULE = "mnv4_deploy.profiles.isolated"
_PR_SET_PDEATHSIG = 1
_SHOWN = 200
# Whatever else libraries raise, of types of their own too, a file may be the cause.
_NOT_OF_CONTENT = (ImportError, NameError, OSError)


class NativeCrashError(ModelFileError):
    """The runtime crashed on a file."""


@dataclass(frozen=True)
class Request:
    """What the child is asked to do, and by which process."""

    function: str
    args: tuple[Any, ...]
    outcome_path: str
    memory_bytes: int
    parent: int


@dataclass(frozen=True)
class Outcome:
    """What came of a call: a value, a DeployError, the traceback of a bug, or no memory for it.

    ``by_content``: the bug may be one of what was read, not of the code or the machine.

    It pickles where the value does. :func:`outcome_of` makes one.
    """

    value: Any = None
    error: DeployError | None = None
    bug: str | None = None
    out_of_memory: bool = False
    by_content: bool = False

    def result(self, what: str, too_large: DeployError, subject: str | None = None) -> Any:
        """The value. Raises the error, ``too_large`` where memory ran out, and RuntimeError
        "``what`` failed" with the traceback of a bug.

        ``subject`` is a file that anybody may have made: what its content can make a library
        raise becomes ModelFileError then, with the traceback as its cause.
        """
        if self.out_of_memory:
            raise too_large
        if self.error is not None:
            raise self.error
        if self.bug is None:
            return self.value
        bug = RuntimeError(f"{what} failed in a child process:\n{self.bug}")
        if subject is None or not self.by_content:
            raise bug
        raise _unexpected(subject, self.bug.strip().rpartition("\n")[2]) from bug


@dataclass(frozen=True)
class IsolatedResult(Generic[T]):
    """A function's return value and what the native libraries wrote while it ran."""

    value: T
    log: str


def run_isolated(
    function: Callable[[Unpack[Ts]], T],
    *args: Unpack[Ts],  # noqa: UP044 - the star needs Python 3.11
    timeout_s: float = DEFAULT_TIMEOUT_S,
    subject: str | None = None,
    memory_bytes: int | None = None,
) -> T:
    """``function`` of ``args`` in a child process, which imports its module; its return value.

    Arguments and result must pickle. ``subject`` is the untrusted file at work: a crash, a
    timeout, a lack of memory or an exception that its content may be the cause of then raises
    ModelFileError naming it; without one the first three raise ToolchainError.
    ``memory_bytes`` limits the child's address space (default 16 GiB). A DeployError of the
    child is raised again here; any other exception of it is a bug and becomes RuntimeError.
    The child does not outlive this process, nor do its temporary files.
    """
    return run_isolated_with_log(
        function, *args, timeout_s=timeout_s, subject=subject, memory_bytes=memory_bytes
    ).value


def run_isolated_with_log(
    function: Callable[[Unpack[Ts]], T],
    *args: Unpack[Ts],  # noqa: UP044 - the star needs Python 3.11
    timeout_s: float = DEFAULT_TIMEOUT_S,
    subject: str | None = None,
    memory_bytes: int | None = None,
) -> IsolatedResult[T]:
    """:func:`run_isolated`, with the child's standard output and error beside the value."""
    with scratch_folder() as folder:
        outcome_path = folder / _OUTCOME_FILE
        request = pickle.dumps(
            Request(
                name_of(function),
                args,
                str(outcome_path),
                memory_bytes or CHILD_MEMORY_BYTES,
                os.getpid(),
            )
        )
        try:
            child = subprocess.run(
                child_command(_MODULE),
                input=request,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                # A child that is killed cannot clean up; its files go with this folder.
                env={**os.environ, "TMPDIR": str(folder)},
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise too_slow(subject, timeout_s) from error
        log = child.stdout.decode("utf-8", "replace")
        if not outcome_path.is_file():
            raise ended(subject, child.returncode, log)
        outcome: Outcome = pickle.loads(outcome_path.read_bytes())
    return IsolatedResult(outcome.result(name_of(function), too_large(subject), subject), log)


@contextmanager
def content_of(subject: str) -> Iterator[None]:
    """A context in this process in which what the content of the file ``subject`` makes a library
    raise becomes ModelFileError, as it does in a child."""
    try:
        yield
    except (DeployError, MemoryError, *_NOT_OF_CONTENT):
        raise
    except Exception as error:
        raise _unexpected(subject, f"{type(error).__name__}: {error}") from error


def _unexpected(subject: str, said: str) -> ModelFileError:
    shown = said[:_SHOWN].rstrip(". ")
    return ModelFileError(
        f"{subject} holds something that was not expected ({shown}): export it again, or report it"
        " if its own runtime runs it."
    )


def name_of(function: Callable[..., Any]) -> str:
    """ "module:name", by which another process finds ``function``."""
    return f"{function.__module__}:{function.__qualname__}"


def function_named(name: str) -> Callable[..., Any]:
    """The function that :func:`name_of` named in another process."""
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


def outcome_of(function: Callable[[Unpack[Ts]], Any], *args: Unpack[Ts]) -> Outcome:  # noqa: UP044
    """What comes of ``function`` of ``args``; raises nothing but what ends a process."""
    try:
        return Outcome(value=function(*args))
    except MemoryError:
        return Outcome(out_of_memory=True)
    except DeployError as error:
        if tells_of_memory(str(error)):
            return Outcome(out_of_memory=True)
        # Its cause may hold objects that do not pickle; the message is all the user sees.
        return Outcome(error=type(error)(*error.args))
    except Exception as error:
        by_content = not isinstance(error, _NOT_OF_CONTENT)
        return Outcome(bug=traceback.format_exc(), by_content=by_content)


def child_command(module: str) -> list[str]:
    """The command that runs ``main()`` of ``module`` in a fresh interpreter.

    The child imports from where this process does, a zip archive included, and from nowhere
    else: the working folder may hold anything.
    """
    path = [str(entry) for entry in sys.path]
    code = f"import sys; sys.path[:] = {path!r}; from {module} import main; main()"
    return [sys.executable, "-c", code]


def ended(subject: str | None, code: int, log: str) -> DeployError:
    """What it means that a child at work on ``subject`` ended with ``code`` and no outcome."""
    if _ran_out_of_memory(code, log):
        return too_large(subject)
    return _crash(subject, exit_reason(code))


def too_slow(subject: str | None, timeout_s: float) -> DeployError:
    if subject is None:
        return ToolchainError(
            f"A run was not done after {timeout_s:g} s: try again when the machine is idle."
        )
    return ModelFileError(
        f"{subject} was not read and run within {timeout_s:g} s: give a smaller model or smaller"
        " shapes."
    )


def _crash(subject: str | None, reason: str) -> DeployError:
    if subject is None:
        return ToolchainError(f"A run ended with {reason}: check the installed runtime versions.")
    return NativeCrashError(
        f"{subject} made the native runtime crash ({reason}): the file is damaged, or not one that"
        " this runtime can read."
    )


def too_large(subject: str | None) -> DeployError:
    if subject is None:
        return ToolchainError("A run needs more memory than there is: close other programs.")
    return ModelFileError(
        f"{subject} needs more memory than there is: give a smaller model or smaller shapes."
    )


def _ran_out_of_memory(code: int, log: str) -> bool:
    """Whether a child died for lack of memory: it said so, the system killed it, or it may not
    even have what loading a runtime takes (a limit such as ulimit's)."""
    return code == -signal.SIGKILL or tells_of_memory(log) or _has_next_to_none()


def _has_next_to_none() -> bool:
    try:
        import resource
    except ImportError:  # not on Windows
        return False
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return limit != resource.RLIM_INFINITY and limit < _LEAST_MEMORY_BYTES


def exit_reason(code: int) -> str:
    """How a process ended, by its return code: "SIGSEGV", "exit code 3"."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def limit_memory(memory_bytes: int = CHILD_MEMORY_BYTES) -> None:
    """Let this process have ``memory_bytes`` of address space, and leave no core files."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or hard > memory_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def die_with(parent: int) -> None:
    """Have the system kill this process when ``parent`` ends in any way (Linux only)."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it was faster
        os._exit(1)


def main() -> None:
    """The child: does the request on standard input and ends."""
    request: Request = pickle.loads(sys.stdin.buffer.read())
    die_with(request.parent)
    serve(request)


def serve(request: Request) -> None:
    """Do ``request`` in this process, which is for nothing else, and end it."""
    limit_memory(request.memory_bytes)
    outcome = pickle.dumps(outcome_of(lambda: function_named(request.function)(*request.args)))
    # Written under another name first: a crash halfway must not leave half an outcome.
    unfinished = Path(request.outcome_path).with_suffix(".unfinished")
    unfinished.write_bytes(outcome)
    unfinished.replace(request.outcome_path)
    # Native libraries may crash while they are torn down; the outcome is already safe.
    os._exit(0)
