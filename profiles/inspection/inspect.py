"""What is in a .tflite or .onnx file, ours or anybody's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.profiles.graph.format import format_of
from mnv4_deploy.profiles.isolated import DEFAULT_TIMEOUT_S, NativeCrashError, run_isolated
from mnv4_deploy.profiles.records.files import FileFacts


def inspect_file(
    path: str | Path, *, signature: str = "", timeout_s: float = DEFAULT_TIMEOUT_S
) -> FileFacts:
    """The facts of a model file; its content decides the format, not its name.

    ``signature`` is the one of a .tflite file to list, "" the first. Parsing and running happen
    in a child process, because native runtimes crash on damaged files; a .tflite file that they
    crash on is listed without their word. Raises ModelFileError for anything that is not a whole
    model, UnsupportedError for a signature that it does not have, ToolchainError where the
    packages for its format are missing.
    """
    if format_of(path) == "tflite":
        return _inspect_tflite(str(path), signature, timeout_s)
    if signature:
        raise UnsupportedError(f"{path} is an .onnx file, which has no signatures.")
    from mnv4_deploy.profiles.inspection.inspect_onnx import inspect_here

    return run_isolated(inspect_here, str(path), timeout_s=timeout_s, subject=str(path))


def _inspect_tflite(path: str, signature: str, timeout_s: float) -> FileFacts:
    from mnv4_deploy.profiles.inspection.inspect_tflite import inspect_here

    try:
        return run_isolated(inspect_here, path, signature, True, timeout_s=timeout_s, subject=path)
    except NativeCrashError as error:
        listed = run_isolated(
            inspect_here, path, signature, False, timeout_s=timeout_s, subject=path
        )
        return replace(listed, notes=(f"Delegation is unknown: {error}", *listed.notes))
