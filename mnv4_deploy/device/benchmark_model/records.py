"""What benchmark_model says, in whatever form it says it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from mnv4_deploy.errors import ToolchainError

_QUOTED_CHARACTERS = 160
# The names that LiteRT's tflite/profiling/profile_summarizer.cc gives: an operator inside a
# delegate, an operator of the main graph by its outputs, anything else.
_DELEGATED = re.compile(r"Delegate/(?P<tag>.+):(?P<number>\d+)", re.DOTALL)
_OPERATOR = re.compile(r"\[.*\]:(?P<number>\d+)", re.DOTALL)
_DELEGATE_KERNEL = re.compile(r"\w*Delegate\w*")

RowKind = Literal["delegated", "operator", "delegate kernel", "other"]


@dataclass(frozen=True)
class OpRow:
    """All calls of what bears one name, over all runs.

    ``avg_us`` is over the calls. ``min_us`` is the shortest call, and ``run_order`` counts all
    events of a run from 0; both are None where the form does not tell. ``times_called`` in each
    run is more than 1 where delegated partitions have operators of the same kernel and number:
    the tool adds them up.
    """

    node_type: str
    name: str
    avg_us: float
    times_called: int
    min_us: float | None = None
    run_order: int | None = None

    @property
    def kind(self) -> RowKind:
        if _DELEGATED.fullmatch(self.name):
            return "delegated"
        if not _OPERATOR.fullmatch(self.name):
            return "other"
        # A delegate that does not report its operators counts as one operator itself.
        return "delegate kernel" if _DELEGATE_KERNEL.fullmatch(self.tag) else "operator"

    @property
    def tag(self) -> str:
        """What LiteRT's profiler calls the event: the kernel, the operator without its options
        ("CONV_2D" of "CONV_2D/Winograd"), or the work around the operators."""
        if match := _DELEGATED.fullmatch(self.name):
            return match["tag"]
        return self.node_type.partition("/")[0] if self.number is not None else self.node_type

    @property
    def number(self) -> int | None:
        """In its delegated partition, or the operator's index in the file."""
        match = _DELEGATED.fullmatch(self.name) or _OPERATOR.fullmatch(self.name)
        return int(match["number"]) if match else None


@dataclass(frozen=True)
class OpTable:
    """The rows of the main graph in the order in which the tool gives them.

    ``internal`` are operators inside a delegate that the tool keeps apart. ``subgraphs``:
    other graphs of the file ran too (control flow).
    """

    rows: tuple[OpRow, ...]
    internal: tuple[OpRow, ...] = ()
    subgraphs: bool = False


@dataclass(frozen=True)
class Stat:
    """Statistics of ``count`` runs in us; percentiles only of newer tools."""

    count: int
    first: float
    last: float
    min: float
    max: float
    avg: float
    std: float = 0.0
    p5: float | None = None
    median: float | None = None
    p95: float | None = None


@dataclass(frozen=True)
class RunLog:
    """One invocation. ``memory_mb`` is what the process grew by, None where it is not told.

    ``not_delegated``: XNNPACK was asked for and took nothing of the model.
    """

    init_us: float
    warmup: Stat | None
    inference: Stat
    memory_mb: float | None = None
    not_delegated: bool = False


def quoted(line: str) -> str:
    """A line of the tool, harmless and short, to put into a sentence."""
    text = "".join(c if c.isprintable() else " " for c in line.strip())
    return f"'{text[:_QUOTED_CHARACTERS]}{'…' if len(text) > _QUOTED_CHARACTERS else ''}'"


def not_understood(line: str) -> ToolchainError:
    """The error for output of another form than the known ones."""
    return ToolchainError(
        f"benchmark_model printed {quoted(line)}, which is not understood: use a published build"
        " of the tool."
    )
