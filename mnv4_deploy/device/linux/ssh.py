"""OpenSSH as the way to a device: its command, and its failures in plain words.

Keys, known hosts, ports of aliases, jump hosts and everything else is OpenSSH's own
configuration. Host keys are never accepted or changed here.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys

from mnv4_deploy.errors import InputError, ToolchainError, UnsupportedError
from mnv4_deploy.profiles.agent.streams import printable
from mnv4_deploy.profiles.records.device import DeviceAddress

# What a shell sees nothing in, but a leading ~.
_PYTHON = re.compile(r"[A-Za-z0-9_./+~][A-Za-z0-9_./+~-]*")
_DEFAULT_PYTHON = "python3"
_SSH_FAILED = 255
# Shells say 127 for a missing program, csh 1; 126 where it is no program.
_NO_PROGRAM = (127, 126, 1)


def ssh_command(address: DeviceAddress, remote: str) -> list[str]:
    """The ``ssh`` command that runs ``remote`` there; ToolchainError where there is no ssh."""
    program = shutil.which("ssh")
    if program is None:
        raise ToolchainError(f"{address.text} needs OpenSSH's ssh: install openssh-client.")
    options = ["-T", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4"]
    # An alias may have a command of its own in ~/.ssh/config, which ours cannot stand beside.
    options += ["-o", "RemoteCommand=none"]
    if sys.stdin is None or not sys.stdin.isatty():
        options += ["-o", "BatchMode=yes"]
    if address.port is not None:
        options += ["-p", str(address.port)]
    return [program, *options, "--", address.target, remote]


def remote_command(python: str, code: str) -> str:
    """``python -c code`` for whatever shell the account has.

    ``code`` must be free of single quotes, exclamation marks and line feeds
    (:func:`mnv4_deploy.device.linux.archive.bootstrap_code`). Raises UnsupportedError for an
    interpreter whose name a shell could misread.
    """
    python = python or _DEFAULT_PYTHON
    if not _PYTHON.fullmatch(python):
        raise UnsupportedError(
            f"{python!r} is no name of a Python on the device: give a command or a path of"
            " letters, digits and _ . / + ~ -."
        )
    assert not set(code) & set("'!\n\\")
    return f"{python} -c '{code}'"


def explain(address: DeviceAddress, code: int, log: str, python: str) -> Exception:
    """Why no agent came up: the exit code of ``ssh`` and its standard error, as one sentence."""
    host = address.target or "this machine"
    if code != _SSH_FAILED:
        return _not_started(host, code, log, python or _DEFAULT_PYTHON)
    for sign, sentence in _FAILURES:
        if re.search(sign, log):
            port = f"-p {address.port} " if address.port else ""
            connect = f"ssh {port}{shlex.quote(host)}"
            return InputError(sentence.format(host=host, connect=connect, last=_last(log)))
    return InputError(f"ssh could not reach {host}: {_last(log)}")


def _not_started(host: str, code: int, log: str, python: str) -> Exception:
    missing = re.search(r"not found|No such file|Unknown command|[Cc]ommand not found", log)
    if code == 127 or (code in _NO_PROGRAM and missing):
        return InputError(
            f"{host} has no {python}: install Python 3.10 or newer there, or name another with"
            " --device-python."
        )
    if "SyntaxError" in log:  # older than the oldest that could say so itself
        return UnsupportedError(
            f"Python 3.10 or newer is needed on {host}, and its {python} is older: name another"
            " with --device-python."
        )
    if code == 126:
        return InputError(f"{host} cannot run {python} ({_last(log)}): name another Python there.")
    said = f": {_last(log)}" if log.strip() else ""
    return ToolchainError(f"The agent on {host} ended before it answered (exit code {code}){said}")


def _last(log: str) -> str:
    """The last thing that was said, which names the cause; OpenSSH puts banners before it."""
    lines = [line for line in map(printable, log.splitlines()) if line]
    return lines[-1].removesuffix(".") + "." if lines else "it gave no reason."


# OpenSSH's messages (ssh.c, sshconnect.c, sshconnect2.c, kex.c) and the system's strerror, in the
# order in which they are looked for: a changed key also fails verification.
_FAILURES = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED",
        "The host key of {host} is not the one that was known, so somebody may be in between: find"
        " out why it changed, and only then remove the old key with ssh-keygen -R.",
    ),
    (
        r"REVOKED HOST KEY",
        "The host key of {host} is marked as revoked: do not connect before you know why.",
    ),
    (
        r"Host key verification failed|host key is known for",
        "The host key of {host} is not known yet: connect once with `{connect}` and compare its"
        " fingerprint.",
    ),
    (
        r"Could not resolve hostname",
        "{host} is no host that can be found: check its name, or add it to ~/.ssh/config.",
    ),
    (
        r"Permission denied|Too many authentication failures",
        "{host} refused the login: set up a key with ssh-copy-id until `{connect}` works without"
        " a question.",
    ),
    (
        r"Connection refused",
        "{host} refused the connection: start its ssh server, or give the right port.",
    ),
    (
        r"timed out",
        "{host} did not answer in time: check that it is switched on and connected.",
    ),
    (
        r"No route to host|Network is (unreachable|down)",
        "There is no way to {host} from here: check that both are on the network.",
    ),
    (
        r"Unable to negotiate",
        "{host} and this machine's ssh have no way of speaking in common: {last}",
    ),
)
