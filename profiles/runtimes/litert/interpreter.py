"""Opens interpreters of .tflite files, of LiteRT or TFLite: the one place that does.

Imported on devices, where any version of either package may be: needs nothing but that.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnv4_deploy.errors import ToolchainError, UnsupportedError, missing_library
from mnv4_deploy.profiles.records.inputs import GivenInputs
from mnv4_deploy.profiles.runtimes.litert.library import TRIED_VERSIONS

# The best first: distribution, package.
_RUNTIMES = (("ai-edge-litert", "ai_edge_litert"), ("tflite-runtime", "tflite_runtime"))


_KINDS = {"S": "text", "U": "text", "O": "text", "c": "complex numbers"}


@dataclass(frozen=True)
class InterpreterRuntime:
    """An installed package with a TFLite interpreter in it.

    ``times_operators``: its profiler can be read too, by
    :class:`~mnv4_deploy.profiles.runtimes.litert.run_xnnpack.XnnpackRunner`.
    """

    distribution: str
    package: str
    version: str

    @property
    def name(self) -> str:
        return f"{self.distribution} {self.version}"

    @property
    def times_operators(self) -> bool:
        return self.package == "ai_edge_litert" and self.version in TRIED_VERSIONS


def installed_runtime() -> InterpreterRuntime:
    """ai-edge-litert of any version, else tflite-runtime; MissingLibraryError where neither is."""
    for distribution, package in _RUNTIMES:
        if importlib.util.find_spec(package) is None:
            continue
        try:
            version = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:  # put there by other means than pip
            version = "of unknown version"
        return InterpreterRuntime(distribution, package, version)
    raise missing_library(
        "Running a .tflite file needs ai-edge-litert or tflite-runtime, and neither is installed",
        "tflite",
        ", or give --setup for a device",
    )


def open_interpreter(
    model: str | Path | bytes,
    *,
    threads: int = 1,
    keep_tensors: bool = False,
    delegate: bool = True,
) -> Any:
    """An interpreter of ``model``, a path or a file's content; :func:`allocate` comes next.

    Runs as an application gets it: with XNNPACK where the package was built with it, which the
    official ones are; without where ``delegate`` is False. With ``keep_tensors`` XNNPACK takes
    every operator alone, so that each result stays readable.

    Raises what the runtime raises, to be
    :class:`~mnv4_deploy.profiles.runtimes.errors.translated`, and ToolchainError where there is
    no runtime, or one that cannot be loaded.
    """
    module = _module(installed_runtime())
    options: dict[str, Any] = {"num_threads": threads}
    if isinstance(model, bytes):
        options["model_content"] = model
    else:
        options["model_path"] = str(model)
    # Old packages know neither of these.
    if keep_tensors:
        options["experimental_preserve_all_tensors"] = True
    if not delegate:
        without = module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        options["experimental_op_resolver_type"] = without
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # keeping tensors costs memory: known
        return module.Interpreter(**options)


def allocate(interpreter: Any, shapes: Mapping[int, Sequence[int]] | None = None) -> None:
    """Give the inputs of ``interpreter`` new ``shapes``, by tensor, and every tensor memory."""
    for tensor, shape in (shapes or {}).items():
        interpreter.resize_tensor_input(tensor, list(shape))
    interpreter.allocate_tensors()


def set_examples(interpreter: Any, given: GivenInputs | None = None) -> None:
    """Give every input of ``interpreter``, which has its shape, its ``given`` value or an example.

    Raises UnsupportedError for an input that holds no numbers, and for a value that does not fit.
    """
    import numpy as np

    from mnv4_deploy.profiles.runtimes.made_up import InputSpec, input_values

    details = interpreter.get_input_details()
    specs = []
    for spec in details:
        kind = np.dtype(spec["dtype"])
        if kind.kind not in "biuf":
            held = _KINDS.get(kind.kind, "no numbers")
            raise UnsupportedError(
                f"Input {spec['name']} holds {held}, so it cannot be made up: give a model with"
                " numeric tensors as inputs."
            )
        specs.append(InputSpec(spec["name"], tuple(map(int, spec["shape"])), kind.name))
    for spec, array in zip(details, input_values(specs, given or {}), strict=True):
        interpreter.set_tensor(spec["index"], array)


def _module(runtime: InterpreterRuntime) -> Any:
    try:
        return importlib.import_module(f"{runtime.package}.interpreter")
    except ImportError as error:
        reason = str(error).strip().partition("\n")[0]
        raise ToolchainError(
            f"{runtime.name} cannot be loaded ({reason}): reinstall it, or give --setup."
        ) from error
