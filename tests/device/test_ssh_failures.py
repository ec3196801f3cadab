"""What keeps a device from being reached: one sentence each, never a way around OpenSSH."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from mnv4_deploy.device.address import parse_address
from mnv4_deploy.device.linux.ssh import explain, remote_command, ssh_command
from mnv4_deploy.device.open import open_device
from mnv4_deploy.errors import DeployError, InputError, ToolchainError, UnsupportedError
from mnv4_deploy.profiles.records.device import DeviceOptions
from tests.device.loopback import Loopback, loopback
from tests.device.old_pythons import pythons


@pytest.fixture(scope="module")
def board():
    """A device without Python."""
    with loopback([], python=False) as found:
        yield found


@pytest.fixture
def keys(board: Loopback):
    """The board, with what the client knows as it was at the end."""
    files = [board.root / "known_hosts", board.root / "client" / "config"]
    before = [file.read_text() for file in files]
    yield board
    for file, text in zip(files, before, strict=True):
        file.write_text(text)


def refusal(address: str, options: DeviceOptions | None = None) -> DeployError:
    with pytest.raises(DeployError) as caught:
        open_device(address, options)
    message = str(caught.value)
    assert message.isprintable() and message.endswith(".") and "Traceback" not in message
    return caught.value


def test_device_without_python(board: Loopback) -> None:
    error = refusal(board.address)
    assert error.exit_code == 2
    assert "has no python3: install Python 3.10 or newer" in str(error)
    error = refusal(board.address, DeviceOptions(python="~/venv/bin/python"))
    assert "has no ~/venv/bin/python:" in str(error)
    error = refusal(board.address, DeviceOptions(python="/etc"))
    assert error.exit_code == 2 and "/etc" in str(error)
    board.await_nothing()


@pytest.mark.parametrize("version", [(2, 7), (3, 8)])
def test_device_with_an_old_python(board: Loopback, version: tuple[int, int]) -> None:
    found = pythons(version)
    if not found or found[0].startswith("/root"):
        pytest.skip(f"needs a Python {version} that all users can run")
    error = refusal(board.address, DeviceOptions(python=found[0]))
    assert isinstance(error, UnsupportedError) and "Python 3.10 or newer is needed" in str(error)


def test_unknown_host_key_is_not_accepted(keys: Loopback) -> None:
    (keys.root / "known_hosts").write_text("")
    error = refusal(keys.address)
    assert error.exit_code == 2
    assert "host key" in str(error) and "not known yet: connect once with `ssh -p" in str(error)
    assert "compare its fingerprint" in str(error)
    assert (keys.root / "known_hosts").read_text() == ""


def test_changed_host_key_is_never_overridden(keys: Loopback) -> None:
    port = keys.address.rpartition(":")[2]
    other = (keys.root / "client" / "key.pub").read_text()
    known = f"[127.0.0.1]:{port} {other}"
    (keys.root / "known_hosts").write_text(known)
    error = refusal(keys.address)
    assert error.exit_code == 2
    assert "not the one that was known" in str(error) and "ssh-keygen -R" in str(error)
    assert (keys.root / "known_hosts").read_text() == known


def test_refused_key(keys: Loopback) -> None:
    config = keys.root / "client" / "config"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", keys.root / "client" / "other"],
        check=True,
    )
    config.write_text(config.read_text().replace("client/key", "client/other"))
    error = refusal(keys.address)
    assert error.exit_code == 2 and "refused the login: set up a key with ssh-copy-id" in str(
        error
    )


def test_unknown_user(keys: Loopback) -> None:
    error = refusal(
        keys.address.replace("ssh://", "ssh://no-such-").replace("no-such-root", "nobody1")
    )
    assert error.exit_code == 2 and "refused the login" in str(error)


def test_unknown_host(board: Loopback) -> None:
    del board
    error = refusal("ssh://no-such-host.invalid")
    assert error.exit_code == 2 and "no host that can be found" in str(error)


def test_nobody_listens(board: Loopback) -> None:
    del board
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    error = refusal(f"ssh://pi@127.0.0.1:{port}")
    assert error.exit_code == 2 and "127.0.0.1 refused the connection" in str(error)


def test_alias_of_the_configuration_is_followed(keys: Loopback) -> None:
    """Names, ports, users and keys of ~/.ssh/config are OpenSSH's own."""
    user, _, place = keys.address.removeprefix("ssh://").partition("@")
    host, _, port = place.partition(":")
    config = keys.root / "client" / "config"
    config.write_text(
        f"Host board\n  HostName {host}\n  Port {port}\n  User {user}\n  RemoteCommand false\n"
        f"Host *\n{config.read_text()}"
    )
    assert "board has no python3" in str(refusal("ssh://board"))


def test_something_else_than_ssh_answers(board: Loopback) -> None:
    del board
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        talker = subprocess.Popen(
            [
                *(sys.executable, "-c"),
                "import socket,sys; s=socket.socket(fileno=int(sys.argv[1]));"
                "c,_=s.accept(); c.sendall(b'HTTP/1.0 400 \\x1b[31mno\\r\\n'*3000); c.close()",
                str(server.fileno()),
            ],
            pass_fds=[server.fileno()],
        )
        error = refusal(f"ssh://127.0.0.1:{port}")
        talker.wait(10)
    assert error.exit_code == 2


# What OpenSSH 9.2 writes, or what its sources (sshconnect.c, kex.c) have for others.
@pytest.mark.parametrize(
    ("log", "part"),
    [
        ("ssh: connect to host x port 22: Connection timed out", "did not answer in time"),
        ("ssh: connect to host x port 22: Operation timed out", "did not answer in time"),
        ("Connection timed out during banner exchange", "did not answer in time"),
        ("ssh: connect to host x port 22: No route to host", "no way to x from here"),
        ("ssh: connect to host x port 22: Network is unreachable", "no way to x from here"),
        ("Received disconnect: 2: Too many authentication failures", "refused the login"),
        ("x: Permission denied (publickey,password).", "refused the login"),
        ("@@@\n@ WARNING: REVOKED HOST KEY DETECTED! @\nHost key verification failed.", "revoked"),
        (
            "Unable to negotiate with 10.0.0.7 port 22: no matching host key type found."
            " Their offer: ssh-rsa",
            "no way of speaking in common: Unable to negotiate",
        ),
        ("kex_exchange_identification: read: Connection reset by peer", "reset by peer"),
        ("\x1b[2Jevil\r\nBad configuration option: x", "could not reach x: Bad configuration"),
        ("", "it gave no reason"),
    ],
)
def test_failures_of_ssh(log: str, part: str) -> None:
    error = explain(parse_address("ssh://x"), 255, log, "")
    assert isinstance(error, InputError) and part in str(error)
    assert str(error).isprintable() and str(error).endswith(".")


@pytest.mark.parametrize(
    ("code", "log"),
    [
        (127, "bash: line 1: python3: command not found"),
        (127, "sh: 1: python3: not found"),
        (1, "python3: Command not found."),  # csh
        (127, "fish: Unknown command: python3"),
    ],
)
def test_shells_say_that_there_is_no_python(code: int, log: str) -> None:
    error = explain(parse_address("ssh://x"), code, log, "")
    assert isinstance(error, InputError) and "x has no python3" in str(error)


def test_agent_that_dies_at_once_says_why() -> None:
    error = explain(parse_address("ssh://x"), 1, "Traceback\nOSError: broken", "")
    assert isinstance(error, ToolchainError) and "OSError: broken" in str(error)


@pytest.mark.parametrize("python", ["python3 -c x", "a;b", "$(id)", "-x", "a'b", "py\nthon", "ü"])
def test_names_of_pythons_that_a_shell_could_misread(python: str) -> None:
    with pytest.raises(UnsupportedError, match="no name of a Python"):
        remote_command(python, "pass")


def test_command_keeps_to_opensshs_own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    command = ssh_command(parse_address("ssh://pi@board:2222"), "true")
    assert command[-3:] == ["--", "pi@board", "true"]
    assert command[command.index("-p") + 1] == "2222"
    assert not [word for word in command if "StrictHostKey" in word or "KnownHosts" in word]
    assert "-p" not in ssh_command(parse_address("ssh://board"), "true")


def test_no_ssh_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ToolchainError, match="install openssh-client"):
        open_device("ssh://board")
