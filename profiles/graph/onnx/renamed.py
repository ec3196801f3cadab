"""A copy of an .onnx file in which every node has a name of its own, also inside other nodes.

onnxruntime's profile knows nodes by name alone: nodes without a name, or with the same one, could
not be told apart.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from mnv4_deploy.errors import OutputError
from mnv4_deploy.profiles.files.regular import pieces
from mnv4_deploy.profiles.graph.onnx.bodies import (
    bodies_of,
    distinct_names,
    nodes_of,
    shared_names,
    without_functions,
)
from mnv4_deploy.profiles.graph.onnx.external_weights import (
    check_weights,
    external_files,
    open_weights,
)
from mnv4_deploy.profiles.graph.onnx.model import import_onnx, load_onnx


def renamed_copy(path: str | Path, folder: str | Path) -> Path:
    """``path`` itself where all names are distinct, else a copy of it in ``folder``.

    The names are those of :func:`~mnv4_deploy.profiles.graph.onnx.bodies.distinct_names`. The
    file's functions are put where it calls them, as onnxruntime does it. Order and number of all
    other nodes stay, so that numbers serve both files. External data is linked, or copied where
    that cannot be done. Profile, trace and optimised graph must come from the returned file.

    Raises ModelFileError for what is no ONNX file, for functions that become too many nodes and
    for external data that is no regular file beside it, OutputError where ``folder`` cannot be
    written.
    """
    onnx = import_onnx()
    source = Path(path)
    model = load_onnx(onnx, source)
    nodes = nodes_of(bodies_of(model.graph))
    check_weights(source, model)
    if not model.functions and distinct_names(nodes) == [node.name for node in nodes]:
        return source
    model = without_functions(source, model)
    nodes = nodes_of(bodies_of(model.graph))
    for node, name in zip(nodes, distinct_names(nodes), strict=True):
        node.name = name
    target = Path(folder) / source.name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, str(target))
        for location in external_files(model):
            _bring_along(source, target.parent, location)
    except OSError as error:
        raise OutputError(
            f"{target} cannot be written ({error.strerror or error}): check the temporary folder."
        ) from error
    return target


def copy_without_shared_names(path: Path, folder: Path) -> Path:
    """``path`` itself where onnxruntime accepts its names, else :func:`renamed_copy`."""
    return renamed_copy(path, folder) if name_notes(path) else path


def name_notes(path: Path) -> tuple[str, ...]:
    """A sentence where several nodes of ``path`` share a name, none where all have their own."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    shared = shared_names(nodes_of(bodies_of(model.graph)))
    if not shared:
        return ()
    return (
        f"Several nodes are called {shared[0]!r}, which onnxruntime refuses: a copy ran in which"
        " each has a name of its own.",
    )


def _bring_along(source: Path, target: Path, location: str) -> None:
    """Link or copy one file of weights of the model ``source`` into the folder ``target``."""
    copy = target / location
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.unlink(missing_ok=True)
    with open_weights(source, location) as origin:
        with suppress(OSError):  # another disk, or somebody else's file
            os.link((source.parent / location).resolve(), copy)
            if os.path.samestat(copy.lstat(), os.fstat(origin.fileno())):
                return
        copy.unlink(missing_ok=True)
        with copy.open("xb") as stream:
            stream.writelines(pieces(origin))
