"""What is in a .tflite or .onnx file, ours or anybody's."""

from __future__ import annotations

from pathlib import Path

from mnv4_deploy.profiles.graph.format import format_of
from mnv4_deploy.profiles.isolated import DEFAULT_TIMEOUT_S, run_isolated
from mnv4_deploy.profiles.records.files import FileFacts


def inspect_file(path: str | Path, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> FileFacts:
    """The facts of a model file; its content decides the format, not its name.

    Parsing and running happen in a child process, because native runtimes crash on damaged
    files. Raises ModelFileError for anything that is not a whole model, ToolchainError where
    the packages for its format are missing.
    """
    if format_of(path) == "tflite":
        from mnv4_deploy.profiles.inspection.inspect_tflite import inspect_here
    else:
        from mnv4_deploy.profiles.inspection.inspect_onnx import inspect_here
    return run_isolated(inspect_here, str(path), timeout_s=timeout_s, subject=str(path))
