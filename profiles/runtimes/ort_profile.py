"""onnxruntime's profile: which node ran how long in which run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnv4_deploy.errors import ToolchainError
from mnv4_deploy.profiles.records.timing import OpTiming

_KERNEL_SUFFIX = "_kernel_time"
_GRAPH_EVENT = "SequentialExecutor::Execute"
_RUN_EVENT = "model_run"


@dataclass(frozen=True)
class NodeEvent:
    """One execution of one node, with times in us; ``tensors`` that go in and out of it."""

    name: str
    kind: str
    start_us: float
    elapsed_us: float
    tensors: int = 0


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


def runs_of(events: Sequence[Mapping[str, Any]]) -> list[tuple[NodeEvent, ...]]:
    """The nodes of the main graph that ran, for each run of the session.

    An event is written when it ends. A branch or a loop body so shows up, its nodes first,
    before the node that holds it; that node's time covers theirs, which are dropped.
    """
    runs: list[tuple[NodeEvent, ...]] = []
    nodes: list[NodeEvent] = []
    graph_start_us: float | None = None  # of a graph just ended, main or nested
    for event in events:
        name = str(event["name"])
        if name == _GRAPH_EVENT:
            _drop_nested(nodes, graph_start_us)
            graph_start_us = float(event["ts"])
        elif name == _RUN_EVENT:
            runs.append(tuple(nodes))
            nodes, graph_start_us = [], None
        elif event.get("cat") == "Node" and name.endswith(_KERNEL_SUFFIX):
            _drop_nested(nodes, graph_start_us)
            graph_start_us = None
            nodes.append(_node_event(name.removesuffix(_KERNEL_SUFFIX), event))
    return runs


def _drop_nested(nodes: list[NodeEvent], graph_start_us: float | None) -> None:
    """Drop the nodes of a graph that ended though its run goes on: it was a nested one."""
    while graph_start_us is not None and nodes and nodes[-1].start_us >= graph_start_us:
        nodes.pop()


def _node_event(name: str, event: Mapping[str, Any]) -> NodeEvent:
    details = event["args"]
    tensors = (details.get(f"{side}_type_shape") or () for side in ("input", "output"))
    return NodeEvent(
        name,
        str(details["op_name"]),
        float(event["ts"]),
        float(event["dur"]),
        sum(map(len, tensors)),
    )


def merge(runs: Sequence[tuple[NodeEvent, ...]], path: str | Path) -> tuple[OpTiming, ...]:
    """The nodes of several runs of ``path``, which must be the same but for their times."""
    if not runs:
        return ()
    first = [(event.name, event.kind) for event in runs[0]]
    if not first:
        raise ToolchainError(f"onnxruntime wrote no node times for {path}: try another version.")
    if any([(event.name, event.kind) for event in run] != first for run in runs[1:]):
        raise ToolchainError(
            f"{path} runs other nodes from run to run (control flow), so their times cannot be"
            " averaged: profile a file without conditions."
        )
    return tuple(
        OpTiming(
            tag=kind,
            backend="onnxruntime",
            samples_us=tuple(run[position].elapsed_us for run in runs),
            name=name,
        )
        for position, (name, kind) in enumerate(first)
    )
