"""The tensors and operators of an ONNX graph and of the graphs inside it, as one list each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from mnv4_deploy.profiles.graph.onnx.bodies import Body, inner_graphs
from mnv4_deploy.profiles.graph.onnx.constants import UNKNOWN_TYPE
from mnv4_deploy.profiles.graph.onnx.run import NodeRuns, observed
from mnv4_deploy.profiles.records.graph import Attribute, Operator, Tensor


def operator_names(nodes: Sequence[Any], *, apart: bool) -> list[str]:
    """What operators are called: as in the file, or by what they make; ``apart``: with a number
    where several have the name."""
    counts = Counter(node.name for node in nodes)
    return [
        f"{node.name}#{number}"
        if apart and node.name and counts[node.name] > 1
        else str(node.name or next(iter(node.output), node.op_type))
        for number, node in enumerate(nodes)
    ]


class Values:
    """The tensors of ``bodies`` (the main graph first), each known by its body and name.

    Two branches may use one name for two tensors. ``main`` are those of the main graph.
    """

    def __init__(self, bodies: Sequence[Body], constants: Sequence[dict[str, Tensor]]) -> None:
        self._bodies = bodies
        self._tables = [dict(own) for own in constants]
        self._own = [
            own.keys()
            | {value.name for value in body.graph.input}
            | {name for node in body.graph.node for name in node.output}
            for body, own in zip(bodies, constants, strict=True)
        ]
        self._positions: dict[tuple[int, str], int] = {}
        self._tensors: list[Tensor] = []

    @property
    def main(self) -> dict[str, Tensor]:
        return self._tables[0]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """In the order of positions, which :meth:`operators` gives away."""
        return tuple(self._tensors)

    def add_observed(self, seen: Mapping[int, NodeRuns]) -> None:
        """Add the tensors of branches and bodies as they were when their operators ran."""
        for place, body in enumerate(self._bodies[1:], start=1):
            is_constant = partial(self._is_constant, place)
            for number, node in body.numbered:
                known = observed(node, seen[number], is_constant) if number in seen else ()
                for name, (shape, dtype) in known:
                    self._table(place, name).setdefault(name, Tensor(name, shape, dtype))

    def _is_constant(self, place: int, name: str) -> bool:
        tensor = self._table(place, name).get(name)
        return tensor is not None and tensor.constant

    def operators(
        self,
        names: Sequence[str],
        seen: Mapping[int, NodeRuns],
        attributes: Callable[[Any], Mapping[str, Attribute]],
        is_custom: Callable[[Any], bool],
    ) -> tuple[Operator, ...]:
        """The operators of all bodies; ``names`` are theirs, ``seen`` is how they ran."""
        for name in self.main:
            self.position(0, name)
        reads = {number: read for number, read in self._reads()}
        return tuple(
            Operator(
                index=number,
                kind=node.op_type,
                name=names[number],
                inputs=reads[number],
                outputs=tuple(self.position(place, name) for name in node.output),
                attributes=attributes(node),
                custom=is_custom(node),
                holder=body.holder,
                runs=self._runs(body, number, seen),
                varies=number in seen and seen[number].varies,
            )
            for place, body in enumerate(self._bodies)
            for number, node in body.numbered
        )

    def position(self, place: int, name: str) -> int:
        """Where in the list of tensors that is which ``name`` means in the body at ``place``; -1
        for no name."""
        if not name:
            return -1
        owner = self._owner(place, name)
        if (owner, name) not in self._positions:
            self._positions[owner, name] = len(self._tensors)
            tensor = self._tables[owner].setdefault(name, Tensor(name, (0,), UNKNOWN_TYPE))
            self._tensors.append(tensor)
        return self._positions[owner, name]

    def _owner(self, place: int, name: str) -> int:
        while place > 0 and name not in self._own[place]:
            place = self._bodies[place].outer
        return place

    def _table(self, place: int, name: str) -> dict[str, Tensor]:
        return self._tables[self._owner(place, name)]

    def _reads(self) -> Iterator[tuple[int, tuple[int, ...]]]:
        """What each operator reads, with what its branches and bodies read from outside and,
        where they were read too, hand out."""
        handed: dict[int, list[int]] = {}
        for place, body in enumerate(self._bodies[1:], start=1):
            outputs = [self.position(place, value.name) for value in body.graph.output]
            handed.setdefault(body.holder, []).extend(outputs)
        for place, body in enumerate(self._bodies):
            for number, node in body.numbered:
                own = [self.position(place, name) for name in node.input]
                captured = [self.position(place, name) for name in _captured(node)]
                yield number, (*own, *captured, *handed.get(number, ()))

    def _runs(self, body: Body, number: int, seen: Mapping[int, NodeRuns]) -> int:
        """onnxruntime may run a node as others, which then ran as often as those beside it."""
        if number in seen:
            return seen[number].runs
        if body.holder < 0:
            return 1
        return max((seen[k].runs for k, _ in body.numbered if k in seen), default=0)


def _captured(node: Any) -> list[str]:
    """What the subgraphs of ``node`` read from outside themselves."""
    found: dict[str, None] = {}
    for _, graph in inner_graphs(node):
        own = {v.name for v in graph.input} | {t.name for t in graph.initializer}
        own |= {name for inner in graph.node for name in inner.output}
        reads = [name for n in graph.node for name in [*n.input, *_captured(n)]]
        reads += [v.name for v in graph.output]
        found |= dict.fromkeys(name for name in reads if name and name not in own)
    return list(found)
