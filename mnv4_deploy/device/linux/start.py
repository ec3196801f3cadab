"""Starts an agent on a device, and hears what the device is."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mnv4_deploy.device.linux.archive import bootstrap_code, build_archive
from mnv4_deploy.device.linux.connection import Connection
from mnv4_deploy.device.linux.ssh import explain, remote_command, ssh_command
from mnv4_deploy.errors import InputError, ToolchainError
from mnv4_deploy.profiles.agent.streams import printable
from mnv4_deploy.profiles.records.device import DeviceAddress, DeviceFacts, DeviceOptions
from mnv4_deploy.profiles.records.plain import from_plain

_FINGERPRINT = re.compile(r"[0-9a-f]{16}")


def start_agent(
    address: DeviceAddress,
    options: DeviceOptions,
    note: Callable[[str], None],
    silence_s: float,
    *,
    private: bool,
) -> tuple[Connection, DeviceFacts]:
    """A connection to an agent that waits for requests, and its device's facts.

    ``private`` lets it run in the environment that --setup made, where there is one. Raises
    InputError where the device cannot be reached, UnsupportedError where its Python is too old,
    OutputError where it has no room, ToolchainError for everything else that fails.
    """
    command = _command(address, options)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # An agent here is told of Ctrl-C by us; ssh may have to ask at the terminal.
            start_new_session=address.scheme == "local",
        )
    except OSError as error:
        raise InputError(f"{command[0]} cannot be started ({error.strerror}).") from error
    connection = Connection(process, address.text, note, silence_s)
    try:
        body = {"folder": options.folder, "private": private, "silence_s": silence_s}
        hello = connection.start(body, build_archive())
        if hello is None:
            code = connection.end()
            raise explain(address, code, connection.log, options.python)
        return connection, _checked(from_plain(DeviceFacts, hello.get("facts")))
    except ValueError as error:
        connection.close()
        raise ToolchainError(f"{address.text} did not say what it is.") from error
    except BaseException:
        connection.close()
        raise


def _command(address: DeviceAddress, options: DeviceOptions) -> list[str]:
    if address.scheme == "ssh":
        return ssh_command(address, remote_command(options.python, bootstrap_code()))
    python = str(Path(options.python).expanduser()) if options.python else sys.executable
    return [python, "-c", bootstrap_code()]


def _checked(facts: DeviceFacts) -> DeviceFacts:
    """The facts of an honest device as they are; texts of any other are shown on terminals, and
    its fingerprint becomes part of a file's name (ValueError)."""
    if not _FINGERPRINT.fullmatch(facts.fingerprint):
        raise ValueError(facts.fingerprint)
    return replace(
        facts,
        title=printable(facts.title, 200),
        system=printable(facts.system, 200),
        architecture=printable(facts.architecture, 200),
        cpu=printable(facts.cpu, 200),
        python=printable(facts.python, 200),
        emulator=printable(facts.emulator, 200),
        runtimes={printable(k, 80): printable(v, 80) for k, v in facts.runtimes.items()},
        isa=tuple(printable(name, 80) for name in facts.isa),
    )
