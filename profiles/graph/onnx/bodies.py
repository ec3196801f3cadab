"""The graphs inside an ONNX graph, and the functions that a file defines for itself.

Branches of If and bodies of Loop and Scan are graphs in attributes of the node that holds them.
A local function is a list of nodes that stands for each call of it; onnxruntime puts it in place
of every call when it loads a file, and so does :func:`without_functions`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnv4_deploy.errors import ModelFileError


@dataclass(frozen=True)
class Body:
    """A graph of a file. Its nodes are numbered through all graphs, from ``first`` on.

    ``holder`` is the number of the node whose ``attribute`` it is, ``outer`` the place of the
    graph of that node among all; both are -1 for the main graph.
    """

    graph: Any
    first: int = 0
    holder: int = -1
    attribute: str = ""
    outer: int = -1

    @property
    def numbered(self) -> Iterator[tuple[int, Any]]:
        """The nodes with their numbers."""
        return enumerate(self.graph.node, self.first)


def bodies_of(graph: Any) -> tuple[Body, ...]:
    """``graph``, an ``onnx.GraphProto``, and all in it; each comes behind the one it is in."""
    found = [Body(graph)]
    count = len(graph.node)
    for place, body in enumerate(found):  # grows
        for number, node in body.numbered:
            for attribute, inner in inner_graphs(node):
                found.append(Body(inner, count, number, attribute, place))
                count += len(inner.node)
    return tuple(found)


def inner_graphs(node: Any) -> Iterator[tuple[str, Any]]:
    """The graphs in the attributes of ``node``, by attribute."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.name, attribute.g
        yield from ((attribute.name, graph) for graph in attribute.graphs)


def names_in_place(branch: Body, node: Any) -> dict[str, str]:
    """What onnxruntime calls the values of ``branch`` where it puts its nodes in the place of the
    If ``node``, whose condition it knew beforehand."""
    own = [tensor.name for tensor in branch.graph.initializer]
    own += [name for inner in branch.graph.node for name in inner.output]
    handed = dict(zip((v.name for v in branch.graph.output), node.output, strict=False))
    return {name: handed.get(name, f"_if_{branch.attribute}_{name}") for name in own}


def nodes_of(bodies: Iterable[Body]) -> list[Any]:
    return [node for body in bodies for node in body.graph.node]


def distinct_names(nodes: Sequence[Any]) -> list[str]:
    """A name of its own for each of ``nodes``, which profiles then know it by.

    A node keeps its name, the first of those that share one too; the others become
    "<name or kind>#<number>".
    """
    used = {node.name for node in nodes}
    kept: set[str] = set()
    names = []
    for number, node in enumerate(nodes):
        name = str(node.name)
        if not name or name in kept:
            name = _free(f"{name or node.op_type}#{number}", used)
            used.add(name)
        kept.add(name)
        names.append(name)
    return names


def _free(name: str, used: set[str]) -> str:
    while name in used:
        name += "'"
    return name


def shared_names(nodes: Iterable[Any]) -> tuple[str, ...]:
    """The names that several nodes have."""
    counts = Counter(node.name for node in nodes)
    return tuple(name for name, count in counts.items() if name and count > 1)


def without_functions(path: Path, model: Any) -> Any:
    """``model``, an ``onnx.ModelProto``, with the nodes of its functions where they are called.

    It must have passed ``onnx_checks.check_model``, which knows how many nodes that makes. Raises
    ModelFileError for functions that cannot be put in place.
    """
    if not model.functions:
        return model
    import onnx.inliner

    try:
        return onnx.inliner.inline_local_functions(model)
    except Exception as error:  # onnx's exceptions share no base
        raise ModelFileError(
            f"{path} defines functions that cannot be put where it calls them: save it again with"
            " another version of its exporter."
        ) from error
