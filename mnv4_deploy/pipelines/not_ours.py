"""What can be done with what is no network of ours: files, checkpoints, others' networks."""

from __future__ import annotations

import shlex
from pathlib import Path

from mnv4_deploy.errors import UnknownModelError
from mnv4_deploy.models.checkpoint_file import CHECKPOINT_SUFFIXES
from mnv4_deploy.models.source import OTHER_NETWORKS, ModelSource

_FILE_SUFFIXES = (".onnx", ".tflite")


def check_source(source: ModelSource) -> None:
    """``source.check()``, for a command that needs a network in PyTorch.

    Raises InputError; of a name that is no model's it says what takes it, if anything does.
    """
    try:
        source.check()
    except UnknownModelError as error:
        raise UnknownModelError(_advice(source.name, str(error))) from error


def _advice(name: str, refusal: str) -> str:
    suffix, shown = Path(name).suffix.lower(), shlex.quote(name)
    if suffix in _FILE_SUFFIXES:
        return (
            f"'{name}' is a model file, and export makes such files of PyTorch networks: look at "
            f"it with `mnv4-deploy inspect {shown}`, see where its time goes with `mnv4-deploy "
            f"profile {shown}`, and put it beside another file with compare (speed) or drift "
            "(accuracy)."
        )
    if suffix in CHECKPOINT_SUFFIXES:
        return (
            f"'{name}' is a file of weights, which says nothing of its network: if that is one "
            f"that `mnv4-deploy models` lists, give --model with its name and --weights {shown}; "
            f"{OTHER_NETWORKS}"
        )
    return f"{refusal.removesuffix('.')}; {OTHER_NETWORKS}"
