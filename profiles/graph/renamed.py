"""A copy of an .onnx file in which every node has a name of its own.

onnxruntime's profile knows nodes by name alone: nodes without a name, or with the same one, could
not be told apart.
"""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from pathlib import Path

from mnv4_deploy.errors import ModelFileError, OutputError
from mnv4_deploy.profiles.files.regular import pieces
from mnv4_deploy.profiles.graph.external_weights import check_weights, external_files, open_weights


def renamed_copy(path: str | Path, folder: str | Path) -> Path:
    """``path`` itself where all names are distinct, else a copy of it in ``folder``.

    A node keeps its name, the first of those that share one too; the others become
    "<name or kind>#<index>". Order and number of nodes stay, so that indices serve both files.
    External data is linked, or copied where that cannot be done. Profile, trace and optimised
    graph must come from the returned file.

    Raises ModelFileError for what is no ONNX file and for external data that is no regular file
    beside it, OutputError where ``folder`` cannot be written.
    """
    import onnx

    source = Path(path)
    try:
        model = onnx.load(str(source), load_external_data=False)
        nodes = list(model.graph.node)
    except Exception as error:  # protobuf's and onnx's exceptions share no base
        raise ModelFileError(
            f"{source} is not a whole ONNX model: give a complete .onnx file."
        ) from error
    check_weights(source, model)
    counts = Counter(node.name for node in nodes)
    if all(name and count == 1 for name, count in counts.items()):
        return source
    used = set(counts)
    kept: set[str] = set()
    for index, node in enumerate(nodes):
        if not node.name or node.name in kept:
            node.name = _free(f"{node.name or node.op_type}#{index}", used)
            used.add(node.name)
        kept.add(node.name)
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


def _free(name: str, used: set[str]) -> str:
    while name in used:
        name += "'"
    return name


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
