"""A scripted Android device behind Debian's real adb client.

Speaks adb's transport protocol on a TCP port, as AOSP's packages/modules/adb/{protocol.txt,
shell_protocol.h,file_sync_protocol.h} describe it, and runs what it is asked to with the real
/bin/sh in a folder of its own: Android's paths are replaced with those below that folder.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import threading
from pathlib import Path
from typing import IO, Literal

from tests.device.fake_adb_sync import serve_sync
from tests.device.real_adb import command_lines

MODERN = ("shell_v2", "cmd", "stat_v2", "ls_v2")
# Replaced in commands; the rest of /proc and /dev is this machine's.
_ANDROID_PATHS = ("/data/local/tmp", "/sys/", "/proc/cpuinfo", "/proc/meminfo")
_MAX_DATA = 256 << 10
_VERSION = 0x01000001  # no checksums
_HEADER = struct.Struct("<4s5I")
_SHELL_STDIN, _SHELL_STDOUT, _SHELL_STDERR, _SHELL_EXIT, _SHELL_CLOSE_STDIN = range(5)


class FakeDevice:
    """One device on a port of its own.

    ``mode``: "device" works, "unauthorized" asks for a key for ever, "mute" never answers.
    ``features`` without "shell_v2" is Android 6. ``full``: no file can be written.
    """

    def __init__(
        self,
        folder: Path,
        mode: Literal["device", "unauthorized", "mute"] = "device",
        features: tuple[str, ...] = MODERN,
        model: str = "Pixel_7",
    ) -> None:
        self.folder = folder.resolve()
        self.mode = mode
        self.features = features
        self.model = model
        self.full = False
        self.commands: list[str] = []
        for path in ("data/local/tmp", "bin", "sys", "proc"):
            (self.folder / path).mkdir(parents=True)
        self._connections: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def serial(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def tmp(self) -> Path:
        return self.folder / "data/local/tmp"

    @property
    def folders(self) -> list[str]:
        """The folders of runs that are there now."""
        return sorted(path.name for path in self.tmp.iterdir() if "mnv4" in path.name)

    def program(self, name: str, script: str, *, where: str = "bin") -> Path:
        """Put a program of /bin/sh on the device."""
        path = self.folder / where / name
        path.write_text(f"#!/bin/sh\n{self.here(script)}\n")
        path.chmod(0o755)
        return path

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def here(self, text: str) -> str:
        """Android's paths as they are on this machine."""
        for path in _ANDROID_PATHS:
            text = text.replace(path, f"{self.folder}{path}")
        return text

    def cut(self) -> None:
        """Pull the cable for good: what runs over there goes on running."""
        with contextlib.suppress(OSError):  # wakes who waits in accept, which close does not
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def processes(self) -> list[int]:
        """What runs on the device: with its files, or started by its shell."""
        return [
            pid
            for pid, line in command_lines()
            if str(self.folder) in line or self._started_here(pid)
        ]

    def _started_here(self, pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/cwd").readlink() == self.folder
        except OSError:
            return False

    def close(self) -> None:
        self.cut()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                self._connections.append(connection)
                threading.Thread(target=_Transport(self, connection).run, daemon=True).start()


class _Transport:
    """One connection of an adb server: streams of packets."""

    def __init__(self, device: FakeDevice, connection: socket.socket) -> None:
        self.device = device
        self._socket = connection
        self._lock = threading.Lock()
        self._streams: dict[int, _Stream] = {}

    def run(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                command, first, second, size, _, _ = _HEADER.unpack(self._exactly(_HEADER.size))
                self._handle(command, first, second, self._exactly(size))
        for stream in list(self._streams.values()):
            stream.gone()

    def send(self, command: bytes, first: int, second: int, data: bytes = b"") -> None:
        magic = int.from_bytes(command, "little") ^ 0xFFFFFFFF
        with self._lock:
            head = _HEADER.pack(command, first, second, len(data), sum(data) & 0xFFFFFFFF, magic)
            self._socket.sendall(head + data)

    def _handle(self, command: bytes, first: int, second: int, data: bytes) -> None:
        if command == b"CNXN":
            self._connect()
        elif command == b"AUTH" and self.device.mode == "unauthorized":
            if first == 2:  # a signature; a public key (3) waits for somebody to accept it
                self.send(b"AUTH", 1, 0, b"\1" * 20)
        elif command == b"OPEN":
            stream = _Stream(self, len(self._streams) + 1, first)
            self._streams[stream.number] = stream
            service = data.rstrip(b"\0").decode()
            threading.Thread(target=stream.serve, args=(service,), daemon=True).start()
        elif second in self._streams:
            self._streams[second].receive(command, data)

    def _connect(self) -> None:
        if self.device.mode == "mute":
            return
        if self.device.mode == "unauthorized":
            self.send(b"AUTH", 1, 0, b"\1" * 20)
            return
        banner = (
            "device::ro.product.name=panther;"
            f"ro.product.model={self.device.model};ro.product.device=panther;"
            f"features={','.join(self.device.features)}"
        )
        self.send(b"CNXN", _VERSION, _MAX_DATA, banner.encode())

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._socket.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return data


class _Stream:
    """One service that the client opened."""

    def __init__(self, transport: _Transport, number: int, theirs: int) -> None:
        self.number = number
        self._transport = transport
        self._device = transport.device
        self._theirs = theirs
        self._may_send = threading.Semaphore(1)
        self._arrived = threading.Condition()
        self._data = b""
        self._ended = False

    def receive(self, command: bytes, data: bytes) -> None:
        if command == b"OKAY":
            self._may_send.release()
        elif command == b"WRTE":
            with self._arrived:
                self._data += data
                self._arrived.notify_all()
            self._transport.send(b"OKAY", self.number, self._theirs)
        elif command == b"CLSE":
            self.gone()

    def gone(self) -> None:
        with self._arrived:
            self._ended = True
            self._arrived.notify_all()
        self._may_send.release()

    def serve(self, service: str) -> None:
        with contextlib.suppress(OSError, EOFError):
            kind, _, rest = service.partition(":")
            if kind.partition(",")[0] not in ("shell", "sync"):
                self._transport.send(b"CLSE", 0, self._theirs)
                return
            self._transport.send(b"OKAY", self.number, self._theirs)
            if kind == "sync":
                serve_sync(self, self._device.here, lambda: self._device.full)
            elif "v2" in kind.split(","):
                self._shell_v2(rest)
            else:
                self._shell_v1(rest)
            self._transport.send(b"CLSE", self.number, self._theirs)

    def write(self, data: bytes) -> None:
        for start in range(0, len(data), _MAX_DATA // 2):
            self._may_send.acquire()
            if self._ended:
                raise EOFError
            part = data[start : start + _MAX_DATA // 2]
            self._transport.send(b"WRTE", self.number, self._theirs, part)

    def read(self, size: int) -> bytes:
        with self._arrived:
            self._arrived.wait_for(lambda: len(self._data) >= size or self._ended)
            if len(self._data) < size:
                raise EOFError
            data, self._data = self._data[:size], self._data[size:]
            return data

    def _start(self, command: str, stderr: int) -> subprocess.Popen[bytes]:
        self._device.commands.append(command)
        return subprocess.Popen(
            ["/bin/sh", "-c", self._device.here(command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=self._device.folder,
            env={"PATH": f"{self._device.folder}/bin:/usr/bin:/bin"},
            start_new_session=True,
        )

    def _shell_v2(self, command: str) -> None:
        process = self._start(command, subprocess.PIPE)
        assert process.stdin is not None
        pumps = [
            threading.Thread(target=self._pump, args=(stream, number), daemon=True)
            for stream, number in (
                (process.stdout, _SHELL_STDOUT),
                (process.stderr, _SHELL_STDERR),
            )
        ]
        for pump in pumps:
            pump.start()
        threading.Thread(target=self._feed, args=(process,), daemon=True).start()
        for pump in pumps:
            pump.join()
        code = process.wait()
        self._frame(_SHELL_EXIT, bytes([code & 0xFF]))

    def _frame(self, number: int, data: bytes) -> None:
        self.write(struct.pack("<BI", number, len(data)) + data)

    def _pump(self, stream: IO[bytes] | None, number: int) -> None:
        assert stream is not None
        with contextlib.suppress(OSError, EOFError):
            for part in iter(lambda: os.read(stream.fileno(), 4096), b""):
                self._frame(number, part)

    def _feed(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        with contextlib.suppress(OSError, EOFError):
            while True:
                number, size = struct.unpack("<BI", self.read(5))
                data = self.read(size)
                if number == _SHELL_STDIN:
                    process.stdin.write(data)
                    process.stdin.flush()
                elif number == _SHELL_CLOSE_STDIN:
                    process.stdin.close()
        with contextlib.suppress(OSError):
            process.stdin.close()

    def _shell_v1(self, command: str) -> None:
        """One stream through a terminal: lines end with \\r\\n, and there is no exit code."""
        process = self._start(command, subprocess.STDOUT)
        assert process.stdin is not None
        assert process.stdout is not None
        threading.Thread(target=self._feed_raw, args=(process,), daemon=True).start()
        for part in iter(lambda: os.read(process.stdout.fileno(), 4096), b""):
            self.write(part.replace(b"\n", b"\r\n"))
        process.wait()

    def _feed_raw(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        with contextlib.suppress(OSError, EOFError):
            while True:
                process.stdin.write(self.read(1))
                process.stdin.flush()
        with contextlib.suppress(OSError):
            process.stdin.close()
