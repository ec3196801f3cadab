"""Why benchmark_model failed, in a sentence that says what to do."""

from __future__ import annotations

import re

from mnv4_deploy.device.android.shell import Completed
from mnv4_deploy.device.benchmark_model.records import quoted
from mnv4_deploy.errors import (
    DeployError,
    ModelFileError,
    OutputError,
    ToolchainError,
    UnsupportedError,
)
from mnv4_deploy.profiles.runtimes.errors import tells_of_memory

_KILLED, _NOT_FOUND, _NOT_ALLOWED, _SIGNALS = 137, 127, 126, 128
_CUSTOM_OP = re.compile(r"[Uu]nresolved custom op: *(?P<name>[^\n]{0,80}?)\.?(?:\n|$)")
# What the shell (mksh), the kernel and Android's linker say of a program for another processor.
_OTHER_PROCESSOR = re.compile(
    r"not executable: \d+-bit ELF file|[Ee]xec format error|cannot execute binary file"
    r"|is for EM_\w+ \(\d+\) instead of EM_|unexpected e_machine|is \d+-bit instead of \d+-bit"
    r"|syntax error: unexpected"
)
_ERROR_LINE = re.compile(r"^(?:ERROR|FATAL|error): (?P<said>.*)$", re.MULTILINE)


def failure(completed: Completed, path: str, binary: str) -> DeployError | None:
    """The error for what came of running ``binary`` on the file ``path``; None for none."""
    said = f"{completed.stderr}\n{completed.stdout}"
    return (
        _of_the_program(completed.code, said, binary)
        or _of_the_end(completed.code, said, path)
        or _of_the_model(completed.code, said, path)
        or _of_the_rest(completed.code, said)
    )


def _of_the_program(code: int, said: str, binary: str) -> DeployError | None:
    if "CANNOT LINK EXECUTABLE" in said:
        line = next(line for line in said.splitlines() if "CANNOT LINK EXECUTABLE" in line)
        if not _OTHER_PROCESSOR.search(line):
            return ToolchainError(
                f"{binary} does not start on the device ({quoted(line)}): give a build of"
                " benchmark_model that is for its version of Android."
            )
    if code and _OTHER_PROCESSOR.search(said):
        return UnsupportedError(
            f"{binary} is for another processor than the device has: give the build of"
            " benchmark_model for it, android_aarch64 for most."
        )
    if code and "taskset" in said and "ffinity" in said:
        return UnsupportedError(
            "The device does not let a program keep to the CPUs asked for: leave out --cpus."
        )
    if code == _NOT_FOUND:
        return ToolchainError(f"{binary} is not on the device: give a path that is there.")
    if code == _NOT_ALLOWED:
        return ToolchainError(
            f"The device does not let {binary} be run: give another --device-folder, on a file"
            " system that allows programs."
        )
    return None


def _of_the_model(code: int, said: str, path: str) -> DeployError | None:
    if match := _CUSTOM_OP.search(said):
        return ModelFileError(
            f"{path} has the operator {quoted(match['name'])}, which this build of"
            " benchmark_model does not: give a model without it."
        )
    if "Signature not specified" in said:
        return UnsupportedError(
            f"{path} has several signatures, of which benchmark_model runs none unasked: give a"
            " model with one."
        )
    if "Failed to load model" in said or "Mmap of " in said or "not a valid Flatbuffer" in said:
        return ModelFileError(
            f"benchmark_model cannot load {path}: give a complete .tflite model."
        )
    if any(sign in said for sign in ("Failed to allocate tensors", "failed to prepare")) or (
        code and any(sign in said for sign in ("failed to invoke", "Failed to apply"))
    ):
        return ModelFileError(
            f"benchmark_model cannot run {path}{_reason(said)}: give a model that LiteRT can run."
        )
    return None


def _of_the_end(code: int, said: str, path: str) -> DeployError | None:
    """For a tool that did not end by itself."""
    if code == _KILLED or (code and tells_of_memory(said)):
        return ModelFileError(
            f"The device ran out of memory with {path}, or ended benchmark_model: close"
            " programs there, or give a smaller model."
        )
    if code > _SIGNALS:
        return ModelFileError(
            f"{path} made benchmark_model crash (signal {code - _SIGNALS}){_reason(said)}: give a"
            " model that LiteRT can run."
        )
    return None


def _of_the_rest(code: int, said: str) -> DeployError | None:
    if code and ("No space left on device" in said or "Disk quota exceeded" in said):
        return OutputError("The device is full: remove files there and try again.")
    if "Dropping ProfileBuffer event" in said:
        return UnsupportedError(
            "benchmark_model has no room for the times of so many operators: give a smaller model."
        )
    if code:
        return ToolchainError(
            f"benchmark_model ended with code {code}{_reason(said)}: use a published build."
        )
    return None


def _reason(said: str) -> str:
    """The last error that the tool printed, to put behind a sentence."""
    errors = [match["said"] for match in _ERROR_LINE.finditer(said) if match["said"].strip()]
    return f" ({quoted(errors[-1])})" if errors else ""
