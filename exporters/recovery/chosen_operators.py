"""The operators of a model file that belong to chosen modules of the PyTorch model."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from pathlib import Path

from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.profiles.graph.read import read_graph_of
from mnv4_deploy.profiles.join.modules import canonical, module_of_ops
from mnv4_deploy.profiles.records.graph import Operator


def chosen_operators(path: Path, modules: Collection[str]) -> dict[str, tuple[Operator, ...]]:
    """The operators of each of ``modules`` in a float32 file of ours, in the file's order.

    ``modules`` are paths as ``module_of_ops`` gives them (or with the wrappers that export puts
    around layers); a module's own operators, not those of the modules inside it. Raises
    UnsupportedError for a path that no operator has, naming the nearest one that exists.
    """
    if not modules:
        return {}
    graph = read_graph_of(path)
    found: dict[str, list[Operator]] = {}
    for operator, module in zip(graph.ops, module_of_ops(graph), strict=True):
        if module:
            found.setdefault(module, []).append(operator)
    for module in modules:
        if canonical(module) not in found:
            nearest = difflib.get_close_matches(canonical(module), found, n=1, cutoff=0.0)
            hint = f"the nearest one is {nearest[0]!r}" if nearest else "its names tell no layers"
            raise UnsupportedError(f"{path.name} has no layer {module!r}: {hint}.")
    return {module: tuple(found[canonical(module)]) for module in modules}


def operators_inside(path: Path, modules: Collection[str]) -> tuple[Operator, ...]:
    """The operators of ``modules`` and of all modules inside them, in the file's order.

    A module whose operators a converter folded away has none.
    """
    if not modules:
        return ()
    roots = tuple(canonical(module) for module in modules)
    graph = read_graph_of(path)
    return tuple(
        operator
        for operator, module in zip(graph.ops, module_of_ops(graph), strict=True)
        if module in roots or module.startswith(tuple(f"{root}." for root in roots))
    )
