"""Repeated conversions of one network with the same options cost one conversion a run."""

from __future__ import annotations

import functools
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from tests.shared import Shared


def once(convert: Callable[..., None], shared: Shared) -> Callable[..., None]:
    """``convert`` of a module to a file, which copies what was made of an equal module before."""

    @functools.wraps(convert)
    def call(module: nn.Module, path: Path, **options: Any) -> None:
        what = (convert.__name__, str(module), sorted(options.items()))
        key = hashlib.sha256(repr(what).encode())
        for name, tensor in module.state_dict().items():
            key.update(name.encode())
            key.update(tensor.numpy().tobytes())
        name = f"converted-{key.hexdigest()}"
        made = shared.folder(name, lambda new: convert(module, new / "model", **options))
        shutil.copyfile(made / "model", path)

    return call
