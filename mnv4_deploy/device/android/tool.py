"""LiteRT's benchmark_model on an Android device: the user's, or the one that is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mnv4_deploy.device.android.facts import parse_abis
from mnv4_deploy.device.android.shell import AndroidShell
from mnv4_deploy.device.benchmark_model.run import read_options
from mnv4_deploy.errors import InputError, UnsupportedError

USUAL_PATH = "/data/local/tmp/benchmark_model"
_TIMEOUT_S = 30.0
# ABIs of the ELF header's e_machine (its specification, "Machine"), which is at byte 18.
_MACHINES = {3: "x86", 40: "armeabi-v7a", 62: "x86_64", 183: "arm64-v8a", 243: "riscv64"}
_ELF = b"\x7fELF"
_LITTLE_ENDIAN = 1
# The page of the Interpreter API's tool: that of the CompiledModel API has other options.
_WHERE = (
    "get the one for Android from https://ai.google.dev/edge/litert/models/measurement and name "
    "it with --benchmark-model PATH"
)


@dataclass(frozen=True)
class Tool:
    """``path`` over there, and the options that this build has."""

    path: str
    options: frozenset[str]


def find_tool(shell: AndroidShell, wanted: str) -> Tool | None:
    """``wanted`` is a file here, which is copied over, or a path there; "" is the usual one.

    None where nothing was named and there is none at the usual place. Raises UnsupportedError
    for a program that the device cannot run, ToolchainError for one that is not benchmark_model,
    InputError for one that exists neither here nor there.
    """
    local = Path(wanted).expanduser()
    if wanted and local.is_file():
        abis = parse_abis(shell.run(["getprop"], _TIMEOUT_S).stdout)
        check_architecture(local, abis)
        path = f"{shell.folder}/benchmark_model"
        shell.push(local, path)
        shell.run(["chmod", "700", path], _TIMEOUT_S)
    else:
        path = wanted or USUAL_PATH
        # An argument of test, never an option: a path there starts with a slash.
        if not path.startswith("/") or shell.run(["test", "-f", path], _TIMEOUT_S).code:
            if not wanted:
                return None
            raise InputError(
                f"There is no file {wanted!r} here or on the device: name LiteRT's "
                "benchmark_model for Android with --benchmark-model."
            )
    return Tool(path, read_options(shell, path))


def no_tool() -> UnsupportedError:
    """What to say where something has to run and there is no tool."""
    return UnsupportedError(f"LiteRT's {USUAL_PATH} is not on the device: {_WHERE}.")


def check_architecture(path: Path, abis: Sequence[str]) -> None:
    """UnsupportedError where the program in ``path`` is not for one of ``abis``."""
    try:
        with path.open("rb") as file:
            head = file.read(20)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    if len(head) < 20 or not head.startswith(_ELF) or head[5] != _LITTLE_ENDIAN:
        raise UnsupportedError(f"{path} is no program for Android: {_WHERE}.")
    machine = int.from_bytes(head[18:20], "little")
    abi = _MACHINES.get(machine, f"machine {machine}")
    if abi not in abis:
        raise UnsupportedError(
            f"benchmark_model is for {abi}, the device is {' or '.join(abis)}: get the one for "
            f"the device and name it with --benchmark-model."
        )
