"""An aarch64 board to try things on, without one: Debian under qemu-user, reached by ssh.

    python benchmarks/arm_device.py make --root DIR
    python benchmarks/arm_device.py run --root DIR -- \
        mnv4-deploy parity FILE --device ssh://arm-device

``make`` fills DIR (0.6 GB) with Debian 12 for arm64 and with the runtimes of this environment,
in the same versions. ``run`` starts an ssh server whose sessions are in there, runs the command
with ``ssh://arm-device`` known to it, and ends everything; without a command it waits for Ctrl-C.
``--cpu`` chooses the processor, and with it the kernels that the runtimes choose.

What is computed there is what Arm's kernels compute; how long it takes means nothing. Needs root,
debootstrap, qemu-user-static, OpenSSH and util-linux. The server listens on this machine alone,
takes no key but one made for this run, and has mounts and processes of its own: nothing of the
machine changes, and nothing is left but DIR.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from arm_root import (
    CPUS,
    QEMU,
    UID,
    USER,
    ArmDeviceError,
    check_root,
    emulation,
    make_root,
    mounts,
    private,
    require,
)

HOST = "arm-device"
# sshd wants a root that no one else can write to, and all folders above it: not so below /tmp.
_INSIDE = "/run/arm"
_START_S = 30.0


@contextlib.contextmanager
def served(root: Path, cpu: str) -> Iterator[Path]:
    """A folder to put first in PATH, whose ``ssh`` knows the device as ``arm-device``."""
    tools = require("sshd", "ssh", "ssh-keygen", "unshare", "setpriv", QEMU)
    check_root(root)
    with emulation(), tempfile.TemporaryDirectory(prefix="arm-device-") as folder:
        keys = Path(folder)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        for name in ("client", "server"):
            command = [tools["ssh-keygen"], "-q", "-t", "ed25519", "-N", "", "-C", HOST]
            subprocess.run([*command, "-f", str(keys / name)], check=True)
        _write_client(keys, port, tools["ssh"])
        _write_server(keys, port, cpu)
        with (keys / "log").open("wb") as log:
            server = subprocess.Popen(
                private(_script(root, keys, cpu, tools["sshd"])),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            _await(server, port, keys / "log")
            yield keys / "bin"
        finally:
            server.kill()
            server.wait()


def _script(root: Path, keys: Path, cpu: str, sshd: str) -> str:
    """The first process of the namespace: what it mounts ends with it."""
    lines = [mounts(root, cpu), f"mkdir -m 755 /run/sshd {_INSIDE}"]
    lines.append(f"mount --rbind {shlex.quote(str(root))} {_INSIDE}")
    # sshd looks its users up before it goes into the root.
    for name in ("passwd", "group"):
        lines.append(f"mount --bind {keys}/{name} /etc/{name}")
    lines.append(f"exec {sshd} -D -e -f {keys}/sshd_config")
    return "\n".join(lines)


def _write_client(keys: Path, port: int, ssh: str) -> None:
    server = (keys / "server.pub").read_text()
    (keys / "known_hosts").write_text(f"[127.0.0.1]:{port} {server}")
    (keys / "ssh_config").write_text(
        f"Host {HOST}\nHostName 127.0.0.1\nPort {port}\nUser {USER}\nIdentityFile {keys}/client\n"
        f"IdentitiesOnly yes\nIdentityAgent none\nUserKnownHostsFile {keys}/known_hosts\n"
        "Host *\nInclude ~/.ssh/config\n"
    )
    wrapper = keys / "bin/ssh"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {ssh} -F {keys}/ssh_config "$@"\n')
    wrapper.chmod(0o755)


def _write_server(keys: Path, port: int, cpu: str) -> None:
    (keys / "authorized_keys").write_text((keys / "client.pub").read_text())
    (keys / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {keys}/server\nPidFile none\n"
        f"AuthorizedKeysFile {keys}/authorized_keys\nUsePAM no\nPasswordAuthentication no\n"
        # The keys are root's, in a temporary folder.
        "StrictModes no\nKbdInteractiveAuthentication no\nPrintMotd no\n"
        f"SetEnv PATH=/usr/local/bin:/usr/bin:/bin LC_ALL=C.UTF-8 QEMU_CPU={CPUS[cpu][0]}\n"
        f"AllowUsers {USER}\nMatch User {USER}\n  ChrootDirectory {_INSIDE}\n"
    )
    # "*" is no password that could be typed, but no locked account either.
    users = f"{USER}:*:{UID}:{UID}::/home/{USER}:/bin/sh\n"
    users += "root:*:0:0:root:/root:/bin/sh\nsshd:*:60999:60999::/run/sshd:/usr/sbin/nologin\n"
    (keys / "passwd").write_text(users)
    (keys / "group").write_text(f"root:x:0:\n{USER}:x:{UID}:\ntty:x:5:\nsshd:x:60999:\n")
    keys.chmod(0o755)  # the server reads the user's keys as that user


def _await(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while server.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    said = log.read_text(errors="replace").strip().splitlines() or ["it gave no reason"]
    raise ArmDeviceError(f"The ssh server did not start: {said[-1]}")


def run(root: Path, cpu: str, command: list[str]) -> int:
    """The command's exit code, with the device there as long as it runs."""
    with served(root, cpu) as programs:
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        if command:
            return subprocess.run(
                command, env={**os.environ, "PATH": path}, check=False
            ).returncode
        print(f"ssh://{HOST}, known to the ssh in\nPATH={programs}:$PATH", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
        return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    actions = parser.add_subparsers(dest="action", required=True)
    make = actions.add_parser("make", help="make the root file system, or what is missing of it")
    make.add_argument("--mirror", default="", help="Debian mirror (default: debootstrap's)")
    make.add_argument("--wheels", type=Path, help="folder with the aarch64 wheels, for no network")
    start = actions.add_parser("run", help="run a command with the device there")
    start.add_argument("--cpu", choices=list(CPUS), default="cortex-a76")
    start.add_argument("command", nargs="*", help="after --; none waits for Ctrl-C")
    for action in (make, start):
        action.add_argument("--root", type=Path, required=True, help="the root file system")
    given = parser.parse_args()
    # Ends the server too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if given.action == "make":
            make_root(given.root.absolute(), given.mirror, given.wheels)
            print(given.root)
            return 0
        return run(given.root.absolute(), given.cpu, given.command)
    except ArmDeviceError as error:
        print(error, file=sys.stderr)
        return 4


if __name__ == "__main__":
    sys.exit(main())
