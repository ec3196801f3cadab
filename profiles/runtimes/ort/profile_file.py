"""onnxruntime's profile: which node ran how long in which run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mnv4_deploy.errors import ToolchainError
from mnv4_deploy.profiles.records.timing import OpTiming

_KERNEL_SUFFIX = "_kernel_time"
_GRAPH_EVENT = "SequentialExecutor::Execute"
_RUN_EVENT = "model_run"


# Nodes that hold graphs.
_HOLDERS = ("If", "Loop", "Scan")


@dataclass(frozen=True)
class NodeEvent:
    """A node in one run of the session, with times in us.

    A node in the body of a loop runs several times, ``runs``: ``start_us`` is that of the first,
    ``elapsed_us`` the sum. Of a node that holds a graph it is the time for itself alone.
    ``tensors`` go in and out of it. ``gap_us``: since the end of the node before it in the same
    graph, None for the first there. ``holder`` is the name of the node that it is in, "" for one
    of the main graph. ``held_runs`` and ``held_tensors`` are those of all the nodes in it: while
    these were written down, its own clock ran.
    """

    name: str
    kind: str
    start_us: float
    elapsed_us: float
    tensors: int = 0
    gap_us: float | None = None
    runs: int = 1
    holder: str = ""
    held_runs: int = 0
    held_tensors: int = 0


@dataclass(frozen=True)
class RunEvents:
    """The nodes of one run of the session in order of their starts, and the time in us from the
    start of the first to the end of the last."""

    nodes: tuple[NodeEvent, ...]
    span_us: float


def read_profile(path: Path) -> list[Mapping[str, Any]]:
    """The events of a profile that onnxruntime has written, in order of their ends.

    Raises ToolchainError where it is not one.
    """
    try:
        events = json.loads(path.read_text(encoding="utf-8", errors="replace"))
        return [event for event in events if "name" in event]
    except (OSError, ValueError, TypeError) as error:
        raise ToolchainError(
            f"onnxruntime's profile cannot be read ({error}): try another version."
        ) from error


def runs_of(events: Sequence[Mapping[str, Any]]) -> list[RunEvents]:
    """The nodes that ran, for each run of the session.

    An event is written when it ends. A branch or a loop body so shows up, its nodes first, before
    the node that holds it, whose time covers theirs.
    """
    runs: list[RunEvents] = []
    nodes: list[_Seen] = []
    graphs: list[tuple[float, list[_Seen]]] = []  # ended, and not yet known to be whose
    for event in events:
        name = str(event["name"])
        if name == _GRAPH_EVENT:
            start_us = float(event["ts"])
            first = len(nodes)
            while first and nodes[first - 1].start_us >= start_us:
                first -= 1
            graphs.append((start_us, nodes[first:]))
            del nodes[first:]
        elif name == _RUN_EVENT:
            main = [node for _, own in graphs for node in own] or nodes
            runs.append(RunEvents(_merged(main), _span_us(main)))
            nodes, graphs = [], []
        elif event.get("cat") == "Node" and name.endswith(_KERNEL_SUFFIX):
            node = _seen(name.removesuffix(_KERNEL_SUFFIX), event)
            while graphs and _holds(node, graphs[-1][0]):
                node.inside[:0] = [graphs.pop()[1]]
            nodes.append(node)
    return runs


@dataclass
class _Seen:
    """One execution of one node; ``inside`` are the executions of the graphs in it."""

    name: str
    kind: str
    start_us: float
    elapsed_us: float
    tensors: int
    inside: list[list[_Seen]] = field(default_factory=list)


def _holds(node: _Seen, graph_start_us: float) -> bool:
    """Whether ``node``, which ended after a graph, is what that graph is in. The node behind the
    last one of a loop's first round may start in the same microsecond as the round."""
    if node.kind in _HOLDERS:
        return node.start_us <= graph_start_us
    return node.start_us < graph_start_us


def _seen(name: str, event: Mapping[str, Any]) -> _Seen:
    details = event["args"]
    tensors = (details.get(f"{side}_type_shape") or () for side in ("input", "output"))
    return _Seen(
        name,
        str(details["op_name"]),
        float(event["ts"]),
        float(event["dur"]),
        sum(map(len, tensors)),
    )


def _span_us(nodes: Sequence[_Seen]) -> float:
    if not nodes:
        return 0.0
    ends_us = (node.start_us + node.elapsed_us for node in nodes)
    return max(ends_us) - min(node.start_us for node in nodes)


def _merged(nodes: Sequence[_Seen]) -> tuple[NodeEvent, ...]:
    """One event for each node, with all that it did in a run of the session."""
    found: dict[tuple[str, str], NodeEvent] = {}
    _add(found, nodes, "")
    return tuple(found.values())


def _add(
    found: dict[tuple[str, str], NodeEvent], nodes: Sequence[_Seen], holder: str
) -> tuple[int, int]:
    """Add ``nodes``, those of one graph, and what is in them; their executions and tensors."""
    runs = tensors = 0
    end_us: float | None = None
    for node in nodes:
        key = node.name, node.kind
        inside_us = sum(one.elapsed_us for graph in node.inside for one in graph)
        event = NodeEvent(
            node.name,
            node.kind,
            node.start_us,
            max(0.0, node.elapsed_us - inside_us),
            node.tensors,
            None if end_us is None else node.start_us - end_us,
            holder=holder,
        )
        before = found.get(key)
        found[key] = event if before is None else _together(before, event)
        end_us = node.start_us + node.elapsed_us
        held = [_add(found, graph, node.name) for graph in node.inside]
        held_runs, held_tensors = (
            (sum(counts) for counts in zip(*held, strict=True)) if held else (0, 0)
        )
        if held:
            found[key] = replace(
                found[key],
                held_runs=found[key].held_runs + held_runs,
                held_tensors=found[key].held_tensors + held_tensors,
            )
        runs += 1 + held_runs
        tensors += node.tensors + held_tensors
    return runs, tensors


def _together(one: NodeEvent, other: NodeEvent) -> NodeEvent:
    return replace(
        one,
        elapsed_us=one.elapsed_us + other.elapsed_us,
        tensors=one.tensors + other.tensors,
        gap_us=other.gap_us if one.gap_us is None else one.gap_us,
        runs=one.runs + other.runs,
    )


def merge(runs: Sequence[tuple[NodeEvent, ...]], path: str | Path) -> tuple[OpTiming, ...]:
    """The nodes of several runs of ``path``, with no time in runs that they did not take part in.

    Raises ToolchainError where there is none.
    """
    if not runs:
        return ()
    if not any(runs):
        raise ToolchainError(f"onnxruntime wrote no node times for {path}: try another version.")
    by_run = [{(event.name, event.kind): event for event in run} for run in runs]
    nodes = {key: event for found in reversed(by_run) for key, event in found.items()}
    order = dict.fromkeys(key for found in by_run for key in found)
    return tuple(
        OpTiming(
            tag=kind,
            backend="onnxruntime",
            samples_us=tuple(
                found[name, kind].elapsed_us if (name, kind) in found else 0.0 for found in by_run
            ),
            name=name,
            runs=nodes[name, kind].runs,
        )
        for name, kind in order
    )
