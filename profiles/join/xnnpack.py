"""The events of LiteRT and XNNPACK joined with the operators of a .tflite file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mnv4_deploy.profiles.inspection.inspect_tflite import assign_partitions, compute_of
from mnv4_deploy.profiles.join.align import align
from mnv4_deploy.profiles.join.modules import module_of_ops
from mnv4_deploy.profiles.records.graph import ModelGraph, Operator
from mnv4_deploy.profiles.records.profile import Layer
from mnv4_deploy.profiles.records.timing import OpTiming
from mnv4_deploy.profiles.xnnpack.kernels import UNPACKED, fused_into


@dataclass
class _Row:
    """A layer in the making; ``position`` orders the rows: timing, then place without one."""

    position: tuple[int, int]
    ops: list[Operator]
    timings: tuple[int, ...]
    partition: int | None
    fused: list[Operator] = field(default_factory=list)


def join_xnnpack(graph: ModelGraph, timings: Sequence[OpTiming]) -> tuple[Layer, ...]:
    """The layers of ``graph`` as they ran, in order of execution.

    ``timings`` are those of ``runtimes.litert.run_xnnpack.XnnpackRunner``.
    Operators outside XNNPACK are found by their index; inside, the operators of each partition are
    aligned with its events by order and kind (``join/align.py``). A padding or an
    activation that XNNPACK fused is in the layer of the operator it was fused with. Every timing
    and every operator is in exactly one layer.
    """
    builtin = {
        t.op_index: i
        for i, t in enumerate(timings)
        if t.backend == "builtin" and t.op_index is not None and t.op_index < len(graph.ops)
    }
    modules = module_of_ops(graph)
    rows = [_Row((at, 0), [graph.ops[index]], (at,), None) for index, at in builtin.items()]
    rows += _delegated_rows(graph, timings, frozenset(builtin))
    rows = _fuse(rows, fused_into(graph))
    claimed = {at for row in rows for at in row.timings}
    layers = [
        (
            row.position,
            Layer(
                op_type=row.ops[0].kind,
                name=_name(graph, row.ops[0]),
                module=modules[row.ops[0].index],
                compute=_compute(graph, row),
                backend="builtin" if row.ops[0].index in builtin else "xnnpack",
                partition=row.partition,
                op_indices=tuple(sorted(op.index for op in (*row.ops, *row.fused))),
                timing_indices=row.timings,
            ),
        )
        for row in rows
    ]
    layers += [
        ((at, 0), _without_operator(t, at)) for at, t in enumerate(timings) if at not in claimed
    ]
    layers.sort(key=lambda pair: pair[0])
    return tuple(replace(layer, index=at) for at, (_, layer) in enumerate(layers))


def _compute(graph: ModelGraph, row: _Row) -> str:
    """As in inspection; a function between conversions that became a table is integer work."""
    source = next((op for op in row.fused if op.kind == "DEQUANTIZE"), None)
    if source is not None:
        return graph.sources(source)[0].dtype
    return compute_of(graph, row.ops[0])


def _without_operator(timing: OpTiming, at: int) -> Layer:
    runtime = timing.backend == "runtime"
    return Layer(
        op_type="runtime" if runtime else timing.tag,
        name=timing.tag,
        module="",
        compute="none" if runtime else "unknown",
        backend=timing.backend,
        partition=timing.partition,
        op_indices=(),
        timing_indices=(at,),
    )


def _delegated_rows(
    graph: ModelGraph, timings: Sequence[OpTiming], builtin: frozenset[int]
) -> list[_Row]:
    fused = fused_into(graph)
    numbers = _partitions(graph, timings, builtin)
    events: defaultdict[int | None, list[int]] = defaultdict(list)
    for at, timing in enumerate(timings):
        if timing.backend == "xnnpack":
            events[timing.partition if numbers is not None else None].append(at)
    members: defaultdict[int | None, list[Operator]] = defaultdict(list)
    constant = _constant_ops(graph)
    rows = []
    for op in graph.ops:
        if op.index in constant and op.index not in builtin:
            rows.append(_Row((-1, op.index), [op], (), None))
        elif op.index not in builtin:
            members[numbers.get(op.index) if numbers is not None else None].append(op)
    for group, ops in members.items():
        rows += _aligned(graph, timings, ops, events[group], fused, group)
    return rows


def _aligned(
    graph: ModelGraph,
    timings: Sequence[OpTiming],
    ops: Sequence[Operator],
    events: Sequence[int],
    fused: dict[int, int],
    partition: int | None,
) -> list[_Row]:
    rows = []
    last = events[0] - 1 if events else len(timings)
    for place, pair in enumerate(align(graph, ops, [timings[at].tag for at in events], fused)):
        taken = tuple(events[k] for k in pair.events)
        last = taken[-1] if taken else last
        if pair.op is not None:
            ran_in = timings[taken[0]].partition if taken else partition
            rows.append(_Row((taken[0] if taken else last, place + 1), [pair.op], taken, ran_in))
    return rows


def _fuse(rows: list[_Row], fused: dict[int, int]) -> list[_Row]:
    """``rows`` with the dropped paddings and activations in the rows that do their work."""
    owner = {op.index: row for row in rows for op in row.ops}
    kept = []
    for row in rows:
        target = owner.get(fused.get(row.ops[0].index, -1))
        if row.timings or target is None or not target.timings or target.partition is None:
            kept.append(row)
        else:
            target.fused += row.ops
    return kept


def _partitions(
    graph: ModelGraph, timings: Sequence[OpTiming], builtin: frozenset[int]
) -> dict[int, int] | None:
    """Operator -> partition; None where TFLite's rule does not give the partitions that ran.

    Operators on constants alone are left out: they take no part in the execution.
    """
    constant = _constant_ops(graph)
    kept = [op for op in graph.ops if op.index not in constant or op.index in builtin]
    ran = {t.partition for t in timings if t.partition is not None}
    renumbered = [replace(op, index=place) for place, op in enumerate(kept)]
    numbers = assign_partitions(
        replace(graph, ops=tuple(renumbered)),
        [op.index not in builtin for op in kept],
        len(ran),
    )
    found = {op.index: n for op, n in zip(kept, numbers, strict=True) if n is not None}
    return found if ran and len(found) == len(kept) - len(builtin) else None


def _constant_ops(graph: ModelGraph) -> frozenset[int]:
    """Operators that unpack weights: XNNPACK does that once, when the model is loaded."""
    constant = graph.constants(UNPACKED)
    unpacking = (op for op in graph.ops if op.kind in UNPACKED)
    return frozenset(op.index for op in unpacking if constant.issuperset(op.inputs))


def _name(graph: ModelGraph, op: Operator) -> str:
    targets = graph.targets(op)
    return targets[0].name if targets else op.kind
