"""Programs and files on an Android device, in a folder that goes away whatever happens.

adb joins the arguments of ``adb shell`` with spaces and the device's sh takes them apart: every
argument is quoted for it here, in :func:`quoted`, and nowhere else.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from mnv4_deploy.device.android.adb import Adb
from mnv4_deploy.device.android.shell import Completed
from mnv4_deploy.errors import DeployError, ModelFileError, OutputError
from mnv4_deploy.profiles.files.own import scratch_folder
from mnv4_deploy.profiles.files.regular import open_regular

PREFIX = "mnv4-deploy-"
# What the file "owner" of our folders says.
MARK = "mnv4-deploy's, removed by it"
# Without a word from here for so long the device removes the folder by itself.
SILENCE_S = 60.0
_TIMEOUT_S = 30.0
_BYTES_PER_S = 1 << 20  # the slowest cable worth waiting for

# Runs "$@" in the background, so that its number is known to who must end it. Prints the exit
# code last: adb gives 0 for a connection cut in the middle, and on old devices for everything.
_RUN = """
folder=$1; end=$2; shift 2
"$@" </dev/null & pid=$!
echo $pid > "$folder/running"
wait $pid; code=$?
rm -f "$folder/running"
echo; echo "$end $code"
"""

# Ends the program that runs there and removes the folder, once nobody puts a heartbeat into it.
# The heartbeat is a file that is taken away each time: no clock is involved.
_WATCH = """
folder=$1; pause=$2; left=$3
while sleep $pause; [ -d "$folder" ]; do
  if [ -e "$folder/heartbeat" ]; then rm -f "$folder/heartbeat"; left=$3; fi
  left=$((left - 1))
  if [ $left -le 0 ]; then
    kill $(cat "$folder/running" 2>/dev/null) 2>/dev/null
    rm -rf "$folder"
  fi
done
"""

# Removes what dead runs left, whose watchdog is no longer there (after a reboot), then makes the
# folder. It gets its name last: no other run may find it without our mark and the number of its
# watchdog. A folder without the mark is somebody else's.
_OPEN = """
root=$1; name=$2; prefix=$3; mark=$4; pause=$5; left=$6; watch=$7
cd "$root" || exit 3
for old in "$root/$prefix"*; do
  [ -d "$old" ] && [ ! -L "$old" ] && [ -f "$old/owner" ] && [ -f "$old/watchdog" ] || continue
  owner=; read -r owner 2>/dev/null < "$old/owner"
  [ "$owner" = "$mark" ] || continue
  if read -r pid 2>/dev/null < "$old/watchdog"; then
    grep -q -F -e "$old" "/proc/$pid/cmdline" 2>/dev/null && continue
  fi
  rm -rf "$old"
done
umask 077
new="$root/.new-$name"
mkdir "$new" || exit 4
echo "$mark" > "$new/owner"
start=
for tool in setsid nohup; do
  if command -v $tool >/dev/null 2>&1; then start=$tool; break; fi
done
: > "$new/heartbeat"
cd /
$start sh -c "$watch" watchdog "$root/$name" $pause $left </dev/null >/dev/null 2>&1 &
echo $! > "$new/watchdog"
mv "$new" "$root/$name" || exit 4
"""

_BEAT = 'while read -r line; do [ -d "$1" ] || exit 1; : > "$1/heartbeat"; done'

_CLOSE = """
kill $(cat "$1/running" 2>/dev/null) 2>/dev/null
read -r pid 2>/dev/null < "$1/watchdog"
rm -rf "$1"
grep -q -F -e "$1" "/proc/$pid/cmdline" 2>/dev/null && kill "$pid"
:
"""


def quoted(argv: Sequence[str]) -> str:
    """A command line of which a POSIX sh makes exactly ``argv``."""
    return " ".join(map(shlex.quote, argv))


class AdbShell:
    """An :class:`~mnv4_deploy.device.android.shell.AndroidShell` over adb.

    Makes its folder below ``root`` and starts a watchdog on the device that removes it, and ends
    what runs, after ``silence_s`` without a heartbeat. Raises ToolchainError where the device
    does not answer, OutputError where the folder cannot be made.
    """

    def __init__(self, adb: Adb, root: str, silence_s: float = SILENCE_S) -> None:
        self._adb = adb
        self._closed = False
        name = PREFIX + secrets.token_hex(8)
        self._end = f"{PREFIX}ended-{secrets.token_hex(8)}"
        self._folder = str(PurePosixPath(root) / name)
        pause_s = silence_s / 6
        done = self._script(_OPEN, root, name, PREFIX, MARK, f"{pause_s:g}", "6", _WATCH)
        if done.code:
            raise OutputError(
                f"No folder can be made in {root!r} on the Android device {adb.serial}: name one "
                "that its shell may write to with --device-folder."
            )
        self._heart = _Heart(adb, self._folder, pause_s)

    @property
    def folder(self) -> str:
        return self._folder

    def run(self, argv: Sequence[str], timeout_s: float) -> Completed:
        return self._ended(
            ["sh", "-c", _RUN, "run", self._folder, self._end, *argv], timeout_s, argv[0]
        )

    def push(self, local: Path, remote: str) -> None:
        try:
            with open_regular(local) as file:
                timeout_s = _TIMEOUT_S + os.fstat(file.fileno()).st_size / _BYTES_PER_S
        except OSError as error:
            raise ModelFileError(f"{local} cannot be read: {error.strerror}.") from error
        # An absolute path never looks like an option.
        answer = self._adb.call("push", str(local.absolute()), remote, timeout_s=timeout_s)
        if answer.code:
            raise self._adb.failure(answer.said, "a file was copied to it")

    def pull(self, remote: str) -> bytes:
        with scratch_folder() as folder:
            local = folder / "pulled"
            answer = self._adb.call("pull", remote, str(local), timeout_s=10 * _TIMEOUT_S)
            if not answer.code and local.is_file():
                return local.read_bytes()
        if "remote object" in answer.said:
            raise ModelFileError(
                f"The Android device {self._adb.serial} wrote no file {remote}: see what its "
                "benchmark_model prints for this model."
            )
        raise self._adb.failure(answer.said, "a file was copied from it")

    def close(self) -> bool:
        """End what runs over there and remove the folder.

        False where the device no longer answers: its watchdog then does that. A second call does
        nothing.
        """
        if self._closed:
            return True
        self._closed = True
        self._heart.stop()
        try:
            self._script(_CLOSE, self._folder)
        except DeployError:
            return False
        return True

    def _script(self, script: str, *arguments: str) -> Completed:
        """Run a script of this module, for which no folder is needed."""
        wrapped = f'end=$1; shift\n({script})\ncode=$?; echo; echo "$end $code"'
        argv = ["sh", "-c", wrapped, "script", self._end, *arguments]
        return self._ended(argv, _TIMEOUT_S, "its folder was prepared")

    def _ended(self, argv: Sequence[str], timeout_s: float, what: str) -> Completed:
        answer = self._adb.call("shell", quoted(argv), timeout_s=timeout_s)
        text = answer.stdout.decode("utf-8", "replace")
        if text.endswith("\r\n"):  # before shell v2 a terminal stands between
            text = text.replace("\r\n", "\n")
        stdout, marker, code = text.rpartition(f"\n{self._end} ")
        if not marker or not code.strip().isdecimal():
            raise self._adb.failure(answer.stderr or text[-200:], f"{what} ran")
        return Completed(int(code), stdout, answer.stderr)


class _Heart:
    """Tells the device every ``pause_s`` that this run is alive, through one adb process."""

    def __init__(self, adb: Adb, folder: str, pause_s: float) -> None:
        self._command = adb.command("shell", quoted(["sh", "-c", _BEAT, "beat", folder]))
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self._end_process()

    def _beat(self) -> None:
        while True:
            # A device that is gone for a moment is found again at the next beat.
            with contextlib.suppress(OSError):
                pipe = self._pipe()
                pipe.write(b"\n")
                pipe.flush()
            if self._stop.wait(self._pause_s):
                return

    def _pipe(self) -> IO[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._end_process()
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        pipe = self._process.stdin
        assert pipe is not None
        return pipe

    def _end_process(self) -> None:
        if self._process is None:
            return
        with contextlib.suppress(OSError):
            self._process.kill()
            self._process.communicate()
