"""What a group of operators that runs as one must compute and move."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mnv4_deploy.profiles.costs.table import COSTS
from mnv4_deploy.profiles.costs.traffic import CONVERSIONS, VIEWS, data_inputs, read_bytes
from mnv4_deploy.profiles.costs.work import HOLDERS, Work
from mnv4_deploy.profiles.records.graph import ModelGraph, OpCost, Operator


def unknown_kinds(graph: ModelGraph) -> tuple[str, ...]:
    """The kinds of operators in ``graph`` that run and are not in the table, in order of
    appearance."""
    return tuple(
        dict.fromkeys(op.kind for op in graph.ops if op.runs and _work(graph, op) is None)
    )


def group_costs(graph: ModelGraph, groups: Iterable[Sequence[int]]) -> tuple[OpCost | None, ...]:
    """The cost of each group of operators, None where it has a kind that is not in the table.

    MACs and other operations are summed. Every tensor counts once: weights, tensors that enter
    the group, and those made in it that are used outside or are outputs of the model. A tensor
    that stays inside a group moves nothing, and so does another view of the same memory.

    What is computed from constants alone is computed when the model is loaded. Inside the group
    it counts as the stored weights it is made of; made outside, as a weight of its own type.
    DequantizeLinear of ONNX is the exception that runs each time, where it is a group of its
    own. In a group with other operators, it and QuantizeLinear are only the types of the
    integers: no work, and even where another group holds the DequantizeLinear of an input that
    several share, the integers are what is read.

    What runs several times in one inference computes and moves activations as often; weights
    count once even then. An operator that only lets a branch or a body run costs nothing itself,
    and neither does what does not run.
    """
    facts = _Facts.of(graph)
    return tuple(_group_cost(facts, [graph.ops[i] for i in indices]) for indices in groups)


@dataclass(frozen=True)
class _Facts:
    """``folded``: tensors of constants alone; ``producers`` and ``consumers`` by tensor."""

    graph: ModelGraph
    folded: frozenset[int]
    producers: Mapping[int, Operator]
    consumers: Mapping[int, frozenset[int]]

    @classmethod
    def of(cls, graph: ModelGraph) -> _Facts:
        folded = {i for i, tensor in enumerate(graph.tensors) if tensor.constant}
        producers: dict[int, Operator] = {}
        consumers: defaultdict[int, set[int]] = defaultdict(set)
        for op in graph.ops:
            inputs = [t for t in op.inputs if t >= 0]
            if inputs and op.kind not in HOLDERS and folded.issuperset(inputs):
                folded.update(t for t in op.outputs if t >= 0)
            for t in inputs:
                consumers[t].add(op.index)
            producers.update((t, op) for t in op.outputs if t >= 0)
        return cls(
            graph,
            frozenset(folded),
            producers,
            {t: frozenset(indices) for t, indices in consumers.items()},
        )

    def runs(self, op: Operator) -> bool:
        """Whether ``op`` does anything after loading."""
        return not self.folded.issuperset(t for t in op.outputs if t >= 0)


def _group_cost(facts: _Facts, ops: Sequence[Operator]) -> OpCost | None:
    ops = [op for op in ops if op.runs]
    works = [_work(facts.graph, op) for op in ops]
    known = [work for work in works if work is not None]
    if len(known) < len(works):
        return None
    kinds = {op.kind for op in ops}
    if kinds <= HOLDERS:
        return OpCost()
    only_conversions = kinds <= CONVERSIONS
    if not any(facts.runs(op) for op in ops) and not (kinds and only_conversions):
        return OpCost()
    if kinds > CONVERSIONS and kinds <= VIEWS | CONVERSIONS:
        return OpCost()  # a view of the integers
    counted = [
        (op.runs, work)
        for op, work in zip(ops, known, strict=True)
        if only_conversions or (facts.runs(op) and op.kind not in CONVERSIONS)
    ]
    in_integers = not only_conversions and bool(kinds & CONVERSIONS)
    weight_bytes, entering_bytes = _reads(facts, ops, in_integers=in_integers)
    return OpCost(
        macs=sum(runs * work.macs for runs, work in counted),
        other_ops=sum(runs * work.other_ops for runs, work in counted),
        weight_bytes=weight_bytes,
        read_bytes=entering_bytes,
        written_bytes=_written(facts, ops, in_integers=in_integers),
    )


def _work(graph: ModelGraph, op: Operator) -> Work | None:
    """None where the kind is unknown, or its operands are not those the kind should have."""
    function = COSTS.get(op.kind)
    if function is None:
        return None
    try:
        work = function(graph, op)
    except (IndexError, KeyError, ValueError):
        return None
    return work if min(work.macs, work.other_ops) >= 0 else None


def _makers(ops: Sequence[Operator]) -> dict[int, Operator]:
    return {t: op for op in ops for t in op.outputs if t >= 0}


def _root(tensor: int, makers: Mapping[int, Operator]) -> int:
    """The tensor of which ``tensor`` is a view made in the group."""
    for _ in makers:  # no chain is longer, unless a damaged file has a cycle
        maker = makers.get(tensor)
        if maker is None or maker.kind not in VIEWS or not maker.inputs:
            break
        tensor = maker.inputs[0]
    return tensor


def _reads(facts: _Facts, ops: Sequence[Operator], *, in_integers: bool) -> tuple[int, int]:
    """Bytes of weights and of activations that enter the group of ``ops``.

    ``in_integers``: a tensor that DequantizeLinear made outside enters as the integers.
    """
    graph = facts.graph
    makers = _makers(ops)
    asked: defaultdict[int, int] = defaultdict(int)
    times: defaultdict[int, int] = defaultdict(int)
    for op in ops:
        for tensor in data_inputs(op):
            entering = _root(tensor, makers)
            if op.kind in VIEWS or entering in makers or entering < 0:
                continue
            part = read_bytes(graph, op, tensor)
            producer = facts.producers.get(entering)
            if in_integers and producer is not None and producer.kind == "DequantizeLinear":
                full = graph.tensors[tensor].size_bytes
                entering = producer.inputs[0]
                part = part * graph.tensors[entering].size_bytes // max(full, 1)
            asked[entering] += part
            times[entering] = 1 if entering in facts.folded else max(times[entering], op.runs)
    sizes = {t: min(size, graph.tensors[t].size_bytes) * times[t] for t, size in asked.items()}
    weights = sum(size for t, size in sizes.items() if t in facts.folded)
    return weights, sum(sizes.values()) - weights


def _written(facts: _Facts, ops: Sequence[Operator], *, in_integers: bool) -> int:
    """Bytes made in the group and used outside it, views of the same memory once.

    ``in_integers``: what DequantizeLinear makes is not; others that use it read the integers.
    """
    graph = facts.graph
    makers = _makers(ops)
    inside = {op.index for op in ops}
    leaving = {
        _root(t, makers)
        for t in makers
        if t in graph.outputs or facts.consumers.get(t, frozenset()) - inside
    }
    return sum(
        graph.tensors[t].size_bytes * makers[t].runs
        for t in leaving
        if t in makers and not (in_integers and makers[t].kind == "DequantizeLinear")
    )
