"""Tables that torch makes anew in each export, a second of a processor's time, made once.

They hold what operators torch knows and how each is written, and nothing of a network.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
import torch.onnx


def make_once() -> None:
    """From the first export on: importing what makes the tables takes time as well."""
    export = torch.onnx.export

    @functools.wraps(export)
    def export_with_tables(*args: Any, **options: Any) -> Any:
        torch.onnx.export = export
        _keep_registry()
        return export(*args, **options)

    torch.onnx.export = export_with_tables
    _keep_operators()


def _keep_registry() -> None:
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    made = functools.cache(ONNXRegistry.from_torchlib)

    def from_torchlib(*args: Any, **options: Any) -> ONNXRegistry:
        registry = copy.copy(made(*args, **options))
        registry.functions = {key: list(all_) for key, all_ in registry.functions.items()}
        return registry

    # Torch calls it on the class and on an instance.
    ONNXRegistry.from_torchlib = staticmethod(from_torchlib)  # type: ignore[method-assign, assignment]


def _keep_operators() -> None:
    from torch._export import utils

    materialize = utils._materialize_cpp_cia_ops
    seen: set[int] = set()

    def once() -> None:
        # A library that is loaded later brings a namespace of its own.
        if len(torch.ops._dir) not in seen:
            materialize()
            seen.add(len(torch.ops._dir))

    utils._materialize_cpp_cia_ops = once
