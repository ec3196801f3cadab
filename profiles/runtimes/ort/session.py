"""Opens sessions of onnxruntime: the one place that does.

Imported on devices: needs nothing but onnxruntime.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from mnv4_deploy.errors import ToolchainError, missing_library
from mnv4_deploy.profiles.runtimes.said import words_of

LOG_ERRORS, LOG_FATAL = 3, 4
_NUMPY_NAMES = {"float": "float32", "double": "float64"}


def import_onnxruntime() -> Any:
    """The onnxruntime module; MissingLibraryError without it, ToolchainError if it is broken."""
    try:
        import onnxruntime
    except ImportError as error:
        if importlib.util.find_spec("onnxruntime") is not None:
            raise ToolchainError(
                f"onnxruntime cannot be loaded ({words_of(str(error))}): reinstall it, or give"
                " --setup for a device."
            ) from error
        raise missing_library(
            "Running an .onnx file needs onnxruntime, which is not installed",
            "onnx",
            ", or give --setup for a device",
        ) from error
    return onnxruntime


def runtime_name() -> str:
    """Name and version, such as "onnxruntime 1.23.0"; raises as :func:`import_onnxruntime`."""
    return f"onnxruntime {import_onnxruntime().__version__}"


def numpy_name(element: str) -> str:
    """NumPy's name of an element type that onnxruntime calls ``element`` ("float")."""
    return _NUMPY_NAMES.get(element, element)


def element_type(spec: Any) -> str:
    """NumPy's name of the type of an input or output of a session ("tensor(float)"); the whole
    type ("seq(tensor(float))") of one that is no tensor."""
    declared = str(spec.type)
    if not declared.startswith("tensor("):
        return declared
    return numpy_name(declared.removeprefix("tensor(").removesuffix(")"))


def open_session(
    model: str | Path | bytes,
    *,
    threads: int = 1,
    log_severity: int = LOG_FATAL,
    profile_prefix: Path | None = None,
    optimized_path: Path | None = None,
    optimize: bool = True,
    traceable: bool = False,
    arm: bool = False,
    weights_folder: Path | None = None,
) -> Any:
    """A CPU session with all graph optimisations, as an application gets it by default.

    ``model`` is a path or a serialized model, whose external weights lie in ``weights_folder``.
    ``threads`` 0 is one a core. ``optimize`` False runs every node as the file has it.
    ``traceable`` leaves out the changes that rename tensors without deciding what is fused:
    memory layout, and int8 to uint8 on processors that multiply uint8 faster. ``arm``: with the
    changes that onnxruntime makes on Arm, which has neither blocked channels nor that preference.

    Raises what onnxruntime raises, to be
    :class:`~mnv4_deploy.profiles.runtimes.errors.translated`, and ToolchainError without it.
    """
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = log_severity
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    elif traceable:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    if traceable or arm:
        options.add_session_config_entry("session.qdqisint8allowed", "1")
    if weights_folder is not None:
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(weights_folder)
        )
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_prefix)
    if optimized_path is not None:
        options.optimized_model_filepath = str(optimized_path)
    return ort.InferenceSession(
        model if isinstance(model, bytes) else str(model),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=["NchwcTransformer"] if arm else None,
    )
