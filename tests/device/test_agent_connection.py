"""Devices that say something else than they should, or nothing at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mnv4_deploy.device.address import parse_address
from mnv4_deploy.device.linux import connection as connection_module
from mnv4_deploy.device.linux.connection import Connection
from mnv4_deploy.device.linux.device import AgentDevice, open_agent
from mnv4_deploy.device.open import open_device
from mnv4_deploy.errors import DeployError, ModelFileError, ToolchainError
from mnv4_deploy.profiles.agent import streams
from mnv4_deploy.profiles.agent.bootstrap import MAGIC
from mnv4_deploy.profiles.agent.streams import error_from, printable
from mnv4_deploy.profiles.records.device import DeviceOptions
from tests.time_limit import in_time, wait_until


def line(kind: str, **body) -> bytes:
    return json.dumps({"kind": kind, "body": body, "arrays": [], "bytes": 0}).encode() + b"\n"


FACTS = {
    **dict.fromkeys(("title", "system", "architecture", "cpu"), "x"),
    "runtimes": {"onnxruntime": "1.0"},
    "fingerprint": "0123456789abcdef",
}


def connection(said: bytes, silence_s: float = 60.0, wait: bool = True) -> Connection:
    """A device that says ``said`` to whatever it is asked."""
    code = f"import sys; sys.stdout.buffer.write({said!r}); sys.stdout.flush();"
    code += "sys.stdin.buffer.read()" if wait else ""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    return Connection(process, "ssh://x", lambda _: None, silence_s)


def test_noise_before_the_first_line_is_skipped() -> None:
    noise = b"Welcome\n\xff\xfe{}\n" + line("hello", facts="wrong") + b"no line feed at the end"
    found = connection(noise + b"\n" + MAGIC + line("hello", facts=FACTS))
    hello = found.start({}, b"")
    assert hello is not None and hello["facts"] == FACTS
    found.close()


@pytest.mark.parametrize(
    "said",
    [
        b"garbage\n",
        b"{}\n",
        b"\0" * 1000 + b"\n",
        b'{"kind": 1, "body": [], "arrays": [], "bytes": 0}\n',
        b'{"kind": "done", "body": {}, "arrays": [], "bytes": -1}\n',
        b'{"kind": "done", "body": {}, "arrays": [], "bytes": 99999999999999}\n',
        b"[" * 50_000 + b"\n",
    ],
)
def test_garbage_is_an_error_in_one_sentence(said: bytes) -> None:
    found = connection(MAGIC + line("hello", facts=FACTS) + said)
    found.start({}, b"")
    with pytest.raises(ToolchainError, match="ssh://x sent") as caught:
        found.request("state")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400
    found.close()


@pytest.mark.parametrize("wait", [True, False])
def test_half_a_message_is_a_lost_connection_or_garbage(wait: bool) -> None:
    whole = b'{"kind": "done", "body": {}, "arrays": [], "bytes": 10}\n12345'
    found = connection(MAGIC + line("hello", facts=FACTS) + whole, silence_s=0.2, wait=wait)
    found.start({}, b"")
    with pytest.raises(ToolchainError, match=r"sent something that is no answer|was lost"):
        found.request("state")


def test_silence_is_a_lost_connection() -> None:
    found = connection(MAGIC + line("hello", facts=FACTS), silence_s=0.2)
    found.start({}, b"")
    with in_time(), pytest.raises(ToolchainError, match="was lost"):
        found.request("state")
    with pytest.raises(ToolchainError, match="is closed"):
        found.request("state")


def deaf(then: str, silence_s: float = 0.2) -> Connection:
    """A device that said hello, reads nothing more and goes on with the program ``then``."""
    said = MAGIC + line("hello", facts=FACTS)
    code = f"import sys, time; out = sys.stdout.buffer; out.write({said!r}); out.flush()\n{then}"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    return Connection(process, "ssh://x", lambda _: None, silence_s)


MORE_THAN_A_PIPE_HOLDS = bytes(1 << 22)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that does not end by itself is soon ended."""
    monkeypatch.setattr(connection_module, "_END_S", 0.1)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("how", ["payload", "arrays", "request"])
def test_a_device_that_stops_reading_is_lost(how: str) -> None:
    found = deaf("time.sleep(3600)")
    found.start({}, b"")
    array = np.zeros(1 << 20, np.float32)
    ask = {
        "payload": lambda: found.tell("piece", payload=MORE_THAN_A_PIPE_HOLDS),
        "arrays": lambda: found.tell("run", {}, arrays=[array]),
        "request": lambda: found.request("run", {}, [array]),
    }[how]
    with in_time(), pytest.raises(ToolchainError, match="was lost"):
        ask()
    with pytest.raises(ToolchainError, match="is closed"):
        found.tell("piece")
    assert found._process.returncode is not None


@pytest.mark.usefixtures("impatient")
def test_a_device_is_lost_too_whose_pipe_its_child_keeps_open(tmp_path: Path) -> None:
    """Killing a wrapper does not end what it started: nobody may wait for that one's pipe."""
    number = tmp_path / "number"
    child = "import subprocess\nwith subprocess.Popen([sys.executable, '-c', "
    child += "'import time; time.sleep(3600)']) as child:\n"
    found = deaf(f"{child}    open({str(number)!r}, 'w').write(f'{{child.pid}}\\n')")
    found.start({}, b"")
    wait_until(lambda: number.exists() and number.read_text().endswith("\n"))
    try:
        with in_time(), pytest.raises(ToolchainError, match="was lost"):
            found.tell("piece", payload=MORE_THAN_A_PIPE_HOLDS)
    finally:
        os.kill(int(number.read_text()), signal.SIGKILL)


@pytest.mark.usefixtures("impatient")
def test_an_end_does_not_wait_for_what_is_being_sent() -> None:
    found = deaf("time.sleep(3600)", silence_s=3600)
    found.start({}, b"")
    errors = []

    def send() -> None:
        try:
            found.tell("piece", payload=MORE_THAN_A_PIPE_HOLDS)
        except ToolchainError as error:
            errors.append(error)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    wait_until(found._sender._lock.locked)
    with in_time():
        found.close()
        sender.join()
    assert len(errors) == 1


class Clock:
    """Seconds that pass when the test says so; ``looked_at`` by the main thread."""

    def __init__(self) -> None:
        self.now = self.looked_at = 0.0

    def monotonic(self) -> float:
        if threading.current_thread() is threading.main_thread():
            self.looked_at = self.now
        return self.now


def test_a_device_that_is_slow_but_alive_is_waited_for(monkeypatch, tmp_path: Path) -> None:
    """It says that it is busy for twice as long as it may say nothing, and then reads."""
    clock = Clock()
    monkeypatch.setattr(streams, "time", clock)
    done = tmp_path / "done"
    found = deaf(
        "import pathlib\n"
        f"while not pathlib.Path({str(done)!r}).exists():\n"
        f"    out.write({line('busy')!r}); out.flush(); time.sleep(0.01)\n"
        "while sys.stdin.buffer.read1(1 << 16): pass",
        silence_s=60,
    )
    found.start({}, b"")

    def be_busy() -> None:
        for _ in range(3):
            clock.now += 40
            wait_until(lambda: found._input.silent_s == 0 and clock.looked_at == clock.now)
        done.touch()

    thread = threading.Thread(target=be_busy)
    thread.start()
    with in_time():
        found.tell("piece", payload=MORE_THAN_A_PIPE_HOLDS)
        found.close()
    thread.join()
    assert done.exists()
    assert found._process.returncode == 0


def test_process_without_an_agent_is_not_waited_for() -> None:
    found = connection(b"This account is not available.\n", wait=False)
    assert found.start({}, b"x" * 500_000) is None
    assert found.end() == 0


@pytest.mark.parametrize(
    "facts",
    [
        None,
        "x",
        {},
        {**FACTS, "fingerprint": "../../evil"},
        {**FACTS, "runtimes": ["x"]},
        {**FACTS, "memory_bytes": "much"},
    ],
)
def test_facts_that_are_none(facts, tmp_path: Path) -> None:
    python = tmp_path / "python3"
    said = MAGIC + line("hello", facts=facts)
    python.write_text(
        f"#!{sys.executable}\nimport sys\nsys.stdout.buffer.write({said!r})\n"
        "sys.stdout.flush()\nsys.stdin.buffer.read()\n"
    )
    python.chmod(0o755)
    with pytest.raises(ToolchainError, match="did not say what it is"):
        open_device("local", DeviceOptions(python=str(python)))


def test_texts_of_a_device_are_harmless(tmp_path: Path) -> None:
    python = tmp_path / "python3"
    facts = {**FACTS, "title": "\x1b[2J\x1b]0;owned\x07Board\u202e\n" + "x" * 10_000}
    said = MAGIC + line("hello", facts=facts)
    python.write_text(
        f"#!{sys.executable}\nimport sys\nsys.stdout.buffer.write({said!r})\n"
        "sys.stdout.flush()\nsys.stdin.buffer.read()\n"
    )
    python.chmod(0o755)
    with open_device("local", DeviceOptions(python=str(python))) as device:
        assert device.facts.title.isprintable() and len(device.facts.title) <= 200


def test_errors_keep_their_class_if_it_is_one_of_ours() -> None:
    error = error_from({"class": "ModelFileError", "message": "a\x1b[2J\nb"})
    assert type(error) is ModelFileError and str(error) == "a [2J b"
    for name in ("KeyboardInterrupt", "annotations", "SystemExit", "", "__class__", "NoSuch"):
        assert type(error_from({"class": name, "message": "x"})) is ToolchainError
    assert isinstance(error_from({}), DeployError)


def test_printable_is_one_short_line() -> None:
    assert printable(" a\t\tb\r\n\x00c\u2028d ") == "a b c d"
    assert len(printable("x" * 10_000)) == 2000


def test_agent_that_receives_garbage_ends_and_leaves_nothing(tmp_path: Path) -> None:
    device = open_agent(parse_address("local"), DeviceOptions(folder=str(tmp_path)), print)
    device._connection._sender._stream.write(b"garbage\n")
    device._connection._sender._stream.flush()
    with pytest.raises(ToolchainError, match=r"received|lost"):
        device.state()
    device.close()
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentDevice]:
    folder = tmp_path_factory.mktemp("agent")
    with open_agent(parse_address("local"), DeviceOptions(folder=str(folder)), print) as device:
        yield device
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("no such thing", {}),
        ("run", {"session": 99}),
        ("run", {}),
        ("time", {"requests": [{"path": 3}]}),
        ("open", {}),
        ("file", {"key": "../..", "name": "x", "size": 1, "sha256": ""}),
        ("file", {"key": "0" * 64, "name": "../x", "size": 1, "sha256": ""}),
        ("file", {"key": "0" * 64, "name": "/x", "size": 1, "sha256": ""}),
        ("file end", {}),
        ("machine", {"kit": 1}),
    ],
)
def test_requests_that_are_none_are_answered(agent: AgentDevice, kind: str, body) -> None:
    with pytest.raises(DeployError) as caught:
        agent._connection.request(kind, body)
    assert "Traceback" not in str(caught.value)
    assert agent.state() is not None
