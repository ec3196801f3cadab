"""A device to test with: a real sshd on a loopback port, with a user and packages of its own.

The device has a user that does not exist otherwise, in private mount and process namespaces, so
that nothing of this machine changes and nothing can be left running: that takes root, without
which the tests skip. The client side is the system's ssh with a configuration,
a key and known hosts of its own, through a wrapper that comes first in PATH.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shlex
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.time_limit import PATIENCE_S

BOTH_RUNTIMES = ("ai-edge-litert", "onnxruntime")
# What the runtimes import.
_NEEDED = (
    *("numpy", "flatbuffers", "protobuf", "ml_dtypes", "packaging", "tqdm"),
    *("typing-extensions", "backports.strenum"),
)
_FIRST_UID = 61_000
_TINY_BYTES, _SMALL_BYTES = 64 << 10, 24 << 20
_START_S = PATIENCE_S


@dataclass(frozen=True)
class Loopback:
    """``address`` for ``--device``. ``home`` and ``temporary`` are the device user's. ``tiny`` and
    ``small`` are folders on disks of 64 kB and 24 MB. ``root`` has the key, the configuration
    and "known_hosts" of the client."""

    address: str
    root: Path
    home: Path
    temporary: Path
    uid: int
    tiny: Path
    small: Path

    @property
    def left(self) -> list[Path]:
        """What runs have left in the temporary folder and at home."""
        mine = {".bashrc", ".ssh"}
        return [
            *self.temporary.iterdir(),
            *(path for path in self.home.iterdir() if path.name not in mine),
        ]

    def processes(self) -> list[tuple[int, str]]:
        """Process number and command line of everything that runs as the device's user."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                uid = folder.stat().st_uid
            except (OSError, UnicodeDecodeError):
                continue
            if uid == self.uid and command:
                found.append((int(folder.name), command.strip()))
        return found

    def agents(self) -> list[int]:
        """The process numbers of the agents that run."""
        return [pid for pid, command in self.processes() if "agent.pyz" in command.split(" {")[0]]

    def await_nothing(self) -> None:
        """Wait until the device is as it was: no files, no processes."""
        deadline = time.monotonic() + PATIENCE_S
        while self.left or self.processes():
            if time.monotonic() > deadline:
                raise AssertionError(f"left behind: {self.left} {self.processes()}")
            time.sleep(0.05)


@contextlib.contextmanager
def loopback(
    runtimes: Sequence[str] = BOTH_RUNTIMES, *, greeting: str = "", python: bool = True
) -> Iterator[Loopback]:
    """Start the device; skips the test where the system has no OpenSSH.

    ``runtimes`` are distributions that the device has installed (linked, not copied).
    ``greeting`` is what its login shell prints. Without ``python`` it has none in its PATH.
    """
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if not sys.platform.startswith("linux") or not sshd or not shutil.which("ssh"):
        pytest.skip("needs sshd and ssh")
    if not _can_be_private():
        pytest.skip("needs root that may mount")
    # Not pytest's own temporary folder, which other users cannot enter.
    root = Path(tempfile.mkdtemp(prefix="loopback-"))
    root.chmod(0o755)
    process = None
    try:
        device = _prepare(root, _free_uid(), runtimes, greeting, python=python)
        port = int(device.address.rpartition(":")[2])
        process = subprocess.Popen(
            _server_command(device, sshd),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(root / "sshd.log").open("wb"),
        )
        _await_port(port, process, root)
        with _path_first(root / "client"):
            yield device
    finally:
        if process is not None:
            process.kill()
            process.wait()
        shutil.rmtree(root, ignore_errors=True)


def _can_be_private() -> bool:
    """Whether this is root that may mount: in a container it often may not."""
    if os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("setpriv"):
        return False
    command = ["unshare", "--mount", "--propagation", "private", "--pid", "--mount-proc", "--fork"]
    trial = subprocess.run(
        [*command, "mount", "-t", "tmpfs", "tmpfs", "/run"], capture_output=True, check=False
    )
    return trial.returncode == 0


def _prepare(
    root: Path, uid: int, runtimes: Sequence[str], greeting: str, *, python: bool
) -> Loopback:
    user = "mnv4board"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    folders = {
        name: root / name
        for name in ("home", "tmp", "client", "server", "base", "packages", "tiny", "small")
    }
    for folder in folders.values():
        folder.mkdir()
    device = Loopback(
        address=f"ssh://{user}@127.0.0.1:{port}",
        root=root,
        home=folders["home"],
        temporary=folders["tmp"],
        uid=uid,
        tiny=folders["tiny"],
        small=folders["small"],
    )
    for name in ("client/key", "server/key"):
        _keygen(root / name)
    _write_client(device, port)
    _write_server(device, port, python=python)
    if python:
        _make_environment(device, runtimes)
    if greeting:
        (device.home / ".bashrc").write_text(f"echo {shlex.quote(greeting)}\n")
    _write_users(device, user)
    for folder in (device.home, device.temporary):
        os.chown(folder, uid, uid)
    return device


def _write_client(device: Loopback, port: int) -> None:
    client = device.root / "client"
    host_key = (device.root / "server" / "key.pub").read_text()
    (device.root / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
    (client / "config").write_text(
        f"IdentityFile {client}/key\nIdentitiesOnly yes\nIdentityAgent none\n"
        f"UserKnownHostsFile {device.root}/known_hosts\nGlobalKnownHostsFile /dev/null\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\n"
    )
    wrapper = client / "ssh"
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {client}/config "$@"\n')
    wrapper.chmod(0o755)


def _write_server(device: Loopback, port: int, *, python: bool) -> None:
    server = device.root / "server"
    keys = server / "authorized_keys"
    keys.write_text((device.root / "client" / "key.pub").read_text())
    if python:
        path = f"{device.root}/env/bin:/usr/bin:/bin"
    else:
        programs = device.root / "programs"
        programs.mkdir()
        (programs / "sh").symlink_to("/bin/sh")
        path = str(programs)
    (server / "config").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {server}/key\nPidFile none\n"
        f"AuthorizedKeysFile {keys}\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
        "KbdInteractiveAuthentication no\nPermitRootLogin yes\nPrintMotd no\n"
        f"SetEnv PATH={path} TMPDIR={device.temporary} OMP_NUM_THREADS=1"
        # An interpreter that is no single file looks for its library where it was built for.
        f" LD_LIBRARY_PATH={device.root}/base/lib\n"
    )


def _write_users(device: Loopback, user: str) -> None:
    """Copies of the system's lists with one user more, for the private namespace."""
    lines = {
        "passwd": f"{user}:x:{device.uid}:{device.uid}::{device.home}:/bin/bash\n",
        "group": f"{user}:x:{device.uid}:\n",
        "shadow": f"{user}:*:19000:0:99999:7:::\n",
    }
    if "\nsshd:" not in Path("/etc/passwd").read_text():
        lines["passwd"] += "sshd:x:60999:60999::/run/sshd:/usr/sbin/nologin\n"
    for name, line in lines.items():
        text = Path("/etc", name).read_text()
        (device.root / "server" / name).write_text(text.rstrip("\n") + "\n" + line)


def _server_command(device: Loopback, sshd: str) -> list[str]:
    server = device.root / "server"
    steps = [
        *(f"mount --bind {server}/{name} /etc/{name}" for name in ("passwd", "group", "shadow")),
        "mount -t tmpfs tmpfs /run",
        "mkdir -m 755 /run/sshd",
        # The interpreter and the packages may be where other users cannot go.
        f"mount --bind {shlex.quote(sys.base_prefix)} {device.root}/base",
        f"mount --bind {shlex.quote(_packages())} {device.root}/packages",
        f"mount -t tmpfs -o mode=777,size={_TINY_BYTES} tmpfs {device.tiny}",
        f"mount -t tmpfs -o mode=777,size={_SMALL_BYTES} tmpfs {device.small}",
        f"exec {sshd} -D -e -f {server}/config",
    ]
    return [
        *("setpriv", "--pdeathsig", "KILL"),
        *("unshare", "--mount", "--propagation", "private", "--pid", "--mount-proc", "--fork"),
        *("--kill-child", "sh", "-c", " && ".join(steps)),
    ]


def _make_environment(device: Loopback, runtimes: Sequence[str]) -> None:
    """A virtual environment whose packages are links to those installed here."""
    program = Path(os.path.realpath(sys.executable)).relative_to(sys.base_prefix)
    base, packages = device.root / "base", device.root / "packages"
    environment = device.root / "env"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = environment / "lib" / version / "site-packages"
    site.mkdir(parents=True)
    (environment / "bin").mkdir()
    for name in ("python", "python3"):
        (environment / "bin" / name).symlink_to(base / program)
    (environment / "pyvenv.cfg").write_text(f"home = {(base / program).parent}\n")
    for name in (*runtimes, *(_NEEDED if runtimes else ("numpy",))):
        try:
            files = importlib.metadata.files(name) or []
        except importlib.metadata.PackageNotFoundError:
            if name in runtimes:
                pytest.skip(f"needs {name}")
            continue
        for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            if not (site / top).is_symlink():
                (site / top).symlink_to(packages / top)


def _packages() -> str:
    return sysconfig.get_paths()["purelib"]


def _keygen(path: Path) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", path], check=True
    )


def _free_uid() -> int:
    taken = {folder.stat().st_uid for folder in Path(tempfile.gettempdir()).glob("loopback-*/tmp")}
    return next(uid for uid in range(_FIRST_UID + os.getpid() % 3000, 65_000) if uid not in taken)


def _await_port(port: int, process: subprocess.Popen[bytes], root: Path) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"sshd did not start: {(root / 'sshd.log').read_text()}")
        time.sleep(0.02)


@contextlib.contextmanager
def _path_first(folder: Path) -> Iterator[None]:
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{folder}{os.pathsep}{before}"
    try:
        yield
    finally:
        os.environ["PATH"] = before
