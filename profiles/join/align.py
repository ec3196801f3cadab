"""Two sequences in the same order, operators and events, aligned at the least cost.

An operator takes one event that does its work, with helpers just before and after it; an
operator may be dropped by the runtime, and an event may belong to no operator. Costs are chosen
so that no pair is ever made by position alone: an event that cannot be the operator's kernel is
left over, however well it would fit the count.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mnv4_deploy.profiles.records.graph import ModelGraph, Operator
from mnv4_deploy.profiles.xnnpack.kernels import (
    HELPERS,
    KERNELS,
    RESHAPES,
    is_kernel,
    readers,
    wrong_type,
)
from mnv4_deploy.profiles.xnnpack.rules import Kernels

_HELPER = 0.1
_WRONG_TYPE = 1.0
_UNLISTED = 2.5
_LEFT_OVER = 4.0
_LEFT_OVER_HELPER = 1.5
_MAX_HELPERS = 4
# What it costs to say that the runtime dropped an operator, the likelier the cheaper.
_DROPPED_FUSED = 0.1
_DROPPED_BEFORE_RESHAPE = 0.2
_DROPPED = {**dict.fromkeys(RESHAPES, 0.5), "QUANTIZE": 1.0, "DEQUANTIZE": 1.0, "TRANSPOSE": 1.0}
_DROPPED_OTHER = 3.0
_DROPPED_ARITHMETIC = 5.0
_ARITHMETIC = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL", "TRANSPOSE_CONV")
# A composite (attention) becomes a run of kernels of any kind.
_COMPOSITE = "STABLEHLO_COMPOSITE"
_COMPOSITE_EVENT = 0.5
_MAX_COMPOSITE_EVENTS = 64

_Step = tuple[float, int, int]  # cost, operators taken, events taken


@dataclass(frozen=True)
class Matched:
    """Either an operator with its events (none: dropped), or events without operator."""

    op: Operator | None
    events: tuple[int, ...]


def align(
    graph: ModelGraph, ops: Sequence[Operator], tags: Sequence[str], fused: dict[int, int]
) -> list[Matched]:
    """``ops`` and the events called ``tags``, both in order of execution, as pairs in order.

    ``fused``: :func:`~mnv4_deploy.profiles.xnnpack.kernels.fused_into`. Every operator and every
    position of ``tags`` is in exactly one pair.
    """
    drop = _drop_costs(graph, fused)
    dropped = [drop(op) for op in ops]

    def steps(i: int, j: int) -> Iterator[_Step]:
        if j < len(tags):
            helper = is_kernel(tags[j], HELPERS)
            yield _LEFT_OVER_HELPER if helper else _LEFT_OVER, 0, 1
        if i < len(ops):
            yield dropped[i], 1, 0
            for cost, count in _claims(graph, ops[i], tags, j):
                yield cost, 1, count

    matched: list[Matched] = []
    i = j = 0
    for _, op_count, event_count in _shortest(steps, len(ops), len(tags)):
        matched.append(Matched(ops[i] if op_count else None, tuple(range(j, j + event_count))))
        i, j = i + op_count, j + event_count
    return matched


def _shortest(
    steps: Callable[[int, int], Iterator[_Step]], op_total: int, event_total: int
) -> list[_Step]:
    """The cheapest way from (0, 0) to the end of both sequences (Dijkstra: most cells of the
    table lie far off the diagonal and are never visited)."""
    arrived_by: dict[tuple[int, int], _Step] = {}
    heap: list[tuple[float, int, int, _Step]] = [(0.0, 0, 0, (0.0, 0, 0))]
    while heap:
        cost, i, j, step = heapq.heappop(heap)
        if (i, j) in arrived_by:
            continue
        arrived_by[i, j] = step
        if (i, j) == (op_total, event_total):
            break
        for following in steps(i, j):
            there = (i + following[1], j + following[2])
            if there not in arrived_by:
                heapq.heappush(heap, (cost + following[0], *there, following))
    path = []
    i, j = op_total, event_total
    while (i, j) != (0, 0):
        step = arrived_by[i, j]
        path.append(step)
        i, j = i - step[1], j - step[2]
    return path[::-1]


def _claims(
    graph: ModelGraph, op: Operator, tags: Sequence[str], start: int
) -> Iterator[tuple[float, int]]:
    """The runs of events from ``start`` that can be ``op``: (cost, number of events)."""
    if op.kind == _COMPOSITE:
        for count in range(1, min(len(tags) - start, _MAX_COMPOSITE_EVENTS) + 1):
            yield _COMPOSITE_EVENT * count, count
        return
    kernels = KERNELS.get(op.kind)
    if kernels is None:
        if start < len(tags) and not _explained(tags[start]):
            yield _UNLISTED, 1
        return
    for before in range(_MAX_HELPERS + 1):
        main = start + before
        if main >= len(tags):
            return
        if is_kernel(tags[main], kernels.main):
            cost = _HELPER * before + (_WRONG_TYPE if _mistyped(graph, op, tags[main]) else 0.0)
            yield from _with_followers(kernels, tags, start, main, cost)
        if not is_kernel(tags[main], kernels.before):
            return


def _with_followers(
    kernels: Kernels, tags: Sequence[str], start: int, main: int, cost: float
) -> Iterator[tuple[float, int]]:
    yield cost, main + 1 - start
    if main + 1 < len(tags) and is_kernel(tags[main + 1], kernels.after):
        yield cost + _HELPER, main + 2 - start


def _mistyped(graph: ModelGraph, op: Operator, tag: str) -> bool:
    moving = [t for t in graph.sources(op) if not t.constant] or list(graph.targets(op))
    return bool(moving) and wrong_type(tag, moving[0])


def _explained(tag: str) -> bool:
    """Whether some listed operator could be ``tag``: then it is not an unlisted one's."""
    return any(is_kernel(tag, kernels.main) for kernels in KERNELS.values())


def _drop_costs(graph: ModelGraph, fused: dict[int, int]) -> Callable[[Operator], float]:
    by_tensor = readers(graph)

    def cost(op: Operator) -> float:
        if op.index in fused:
            return _DROPPED_FUSED
        reading = [reader for t in op.outputs for reader in by_tensor.get(t, [])]
        if op.kind in RESHAPES and reading and all(r.kind in RESHAPES for r in reading):
            return _DROPPED_BEFORE_RESHAPE
        if op.kind in _ARITHMETIC:
            return _DROPPED_ARITHMETIC
        return _DROPPED.get(op.kind, _DROPPED_OTHER)

    return cost
