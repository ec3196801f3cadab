"""What the runtimes raise, in our errors, and how it shows that memory ran out.

Standard library only: processes that start the runtimes in children use it too.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mnv4_deploy.errors import ModelFileError
from mnv4_deploy.profiles.runtimes.said import advice_on, words_of

# What C++, the system and the runtimes say before they give up. "Failed to allocate tensors" is
# what LiteRT says of operators that it cannot prepare, memory or not.
_OUT_OF_MEMORY = re.compile(
    r"bad[_ ]alloc|cannot allocate memory|failed to allocate(?! tensors)"
    r"|memory allocation (?:failure|still failed)|out of memory|failed to map segment"
    r"|resource temporarily unavailable",
    re.IGNORECASE,
)
_NEXT_MESSAGE = re.compile(r"(?<=\S)(?<!\.)\.?(?=Node number \d)")
# What pybind11 makes of the exceptions of C++; onnxruntime has its own besides, without a base.
_OF_CPP = (RuntimeError, ValueError, IndexError, OverflowError)
_ORT = "onnxruntime"
_ADVICE = {
    "load": "export it again",
    "run": "give a model that runs, or other shapes",
}


def tells_of_memory(text: str) -> bool:
    """Whether an error or a log says that memory ran out."""
    return _OUT_OF_MEMORY.search(text) is not None


def memory_for(size_bytes: int) -> bool:
    """Whether this process could still reserve ``size_bytes``; nothing is touched or kept.

    For a runtime that failed without a reason.
    """
    try:
        mmap.mmap(-1, max(1, size_bytes)).close()
    except (OSError, OverflowError, ValueError):
        return False
    return True


@contextmanager
def translated(runtime: str, what: str, path: str | Path) -> Iterator[None]:
    """A context in which the exceptions of ``runtime`` (name and version) become ours.

    ``what`` is the verb for what it does with the file ``path``: "load", "run". Raises
    MemoryError where memory ran out, :func:`refusal` for all else that the runtime raises.
    DeployError, OSError and bugs of ours pass.
    """
    try:
        yield
    except Exception as error:
        if not _is_foreign(error):
            raise
        # TFLite puts the messages of an operator and of its node one after the other.
        said = _NEXT_MESSAGE.sub("; ", str(error).strip())
        if tells_of_memory(said):
            raise MemoryError(f"{path}: {words_of(said)}") from error
        raise refusal(runtime, what, path, said) from error


def refusal(runtime: str, what: str, path: str | Path, said: str) -> ModelFileError:
    """The error of a ``runtime`` that says ``said`` when it is to ``what`` ("load") the file
    ``path``."""
    advice = advice_on(said, _ADVICE.get(what, "give another file or other shapes"))
    return ModelFileError(f"{runtime} cannot {what} {path} ({words_of(said)}): {advice}.")


def _is_foreign(error: Exception) -> bool:
    return isinstance(error, _OF_CPP) or type(error).__module__.partition(".")[0] == _ORT
