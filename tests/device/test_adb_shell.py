"""Programs, files and folders on a scripted Android device, through the real adb client."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mnv4_deploy.device.android.adb import Adb
from mnv4_deploy.device.android.adb_shell import MARK, PREFIX, AdbShell, quoted
from mnv4_deploy.errors import DeployError, ModelFileError, OutputError, ToolchainError
from tests.device.fake_adbd import MODERN, FakeDevice
from tests.device.real_adb import adb_server, command_lines, connect, disconnect
from tests.time_limit import PATIENCE_S, wait_until

ROOT = "/data/local/tmp"
# Long, and of this test process alone.
SLEEP = ["/bin/sleep", f"598.{os.getpid()}"]
# The device's clock, which only its watchdog looks at: it stands still, runs fast once the file
# "runs" is there, and goes on from heartbeat to heartbeat where "beats" is. Like a real sleep it
# outlives the watchdog, but not for long.
CLOCK = """
while read -r _ _ _ parent _ < /proc/$$/stat; [ $parent = $PPID ]; do
  [ -e {0}/runs ] && exit
  [ -e {0}/beats ] && ls {1}/*/heartbeat >/dev/null 2>&1 && echo >> {0}/beats && exit
  /bin/sleep 0.02
done
"""
HOSTILE = [
    "a b",
    "'",
    '"$(touch {planted})"',
    "`touch {planted}`",
    "; touch {planted};",
    "&& touch {planted}",
    "| touch {planted}",
    "x\ntouch {planted}",
    "--serial=$IFS*?[a]~#!\\",
    "$(touch${{IFS}}{planted})\t>{planted}",
]


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Iterator[str]:
    with adb_server(tmp_path_factory.mktemp("adb")) as found:
        yield found


@pytest.fixture
def device(program, tmp_path, request) -> Iterator[FakeDevice]:
    made = FakeDevice(tmp_path / "device", features=getattr(request, "param", MODERN))
    made.program("sleep", CLOCK.format(made.folder, ROOT))
    connect(program, made.serial)
    yield made
    made.close()
    disconnect(program)


@pytest.fixture
def shell(program, device) -> Iterator[AdbShell]:
    made = AdbShell(Adb(program, device.serial), ROOT)
    yield made
    made.close()


# With shell v2, and as Android 6 without it.
either = pytest.mark.parametrize("device", [MODERN, ("cmd",)], indirect=True, ids=["v2", "v1"])


@either
def test_arguments_arrive_as_they_are_and_run_nothing(shell, tmp_path):
    planted = tmp_path / "planted"
    words = [word.format(planted=planted) for word in HOSTILE]
    done = shell.run(["printf", r"%s\0", *words], PATIENCE_S)
    assert done.code == 0
    assert done.stdout.split("\0")[:-1] == words
    assert not planted.exists()


def test_quoting_survives_a_posix_shell(tmp_path):
    words = [word.format(planted=tmp_path / "planted") for word in HOSTILE] + [""]
    line = "printf '%s\\0' " + quoted(words)
    done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == words


@either
def test_exit_codes_and_streams(shell, device):
    done = shell.run(["sh", "-c", "echo out; echo err >&2; exit 7"], PATIENCE_S)
    assert done.code == 7
    if "shell_v2" in device.features:
        assert (done.stdout, done.stderr) == ("out\n", "err\n")
    else:
        assert sorted(done.stdout.split()) == ["err", "out"]
    assert shell.run(["no-such-program"], PATIENCE_S).code == 127
    assert shell.run(["sh", "-c", "kill -9 $$"], PATIENCE_S).code == 137


def test_output_that_looks_like_the_end_of_a_run(shell):
    text = f"\n{PREFIX}ended 0\n{PREFIX}ended-0123456789abcdef 3\n"
    assert shell.run(["printf", "%s", text], PATIENCE_S).stdout == text


@either
@pytest.mark.parametrize("size", [0, 1, 300_000])
def test_files_go_there_and_back(shell, device, tmp_path, size):
    local = tmp_path / " m;$(x)'.tflite"
    local.write_bytes(os.urandom(size))
    shell.push(local, f"{shell.folder}/model-0.tflite")
    assert Path(device.here(shell.folder), "model-0.tflite").read_bytes() == local.read_bytes()
    assert shell.pull(f"{shell.folder}/model-0.tflite") == local.read_bytes()


def test_a_file_that_is_not_there(shell, tmp_path):
    with pytest.raises(ModelFileError, match="wrote no file"):
        shell.pull(f"{shell.folder}/nothing")
    with pytest.raises(ModelFileError, match="cannot be read"):
        shell.push(tmp_path / "nothing", f"{shell.folder}/x")


def test_a_full_disk(shell, device, tmp_path):
    (tmp_path / "model").write_bytes(b"x" * 1000)
    device.full = True
    with pytest.raises(OutputError, match="is full: remove files there"):
        shell.push(tmp_path / "model", f"{shell.folder}/model")
    assert "model" not in shell.run(["ls", shell.folder], PATIENCE_S).stdout


@either
def test_nothing_is_left_after_closing(shell, device, tmp_path):
    (tmp_path / "model").write_bytes(b"x")
    shell.push(tmp_path / "model", f"{shell.folder}/model")
    assert device.folders == [shell.folder.rpartition("/")[2]]
    assert Path(device.here(shell.folder)).stat().st_mode & 0o777 == 0o700
    assert shell.close()
    assert shell.close()
    assert device.folders == []
    wait_until(lambda: not device.processes())


# Without a heartbeat, after which the device removes the folder.
PAUSES = 6


def test_the_folder_outlives_the_silence_as_long_as_the_run_lives(program, device):
    beats = device.folder / "beats"
    with closing(AdbShell(Adb(program, device.serial), ROOT, silence_s=0.3)) as shell:
        beats.touch()
        wait_until(lambda: beats.stat().st_size >= 2 * PAUSES)
        assert device.folders == [shell.folder.rpartition("/")[2]]


def sleeping() -> list[int]:
    return [pid for pid, line in command_lines() if line.split() == SLEEP]


def test_a_cable_pulled_in_the_middle(shell, device):
    caught: list[BaseException] = []

    def run() -> None:
        try:
            shell.run(SLEEP, PATIENCE_S)
        except DeployError as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(sleeping)
    device.cut()
    thread.join(PATIENCE_S)
    assert type(caught[0]) is ToolchainError
    assert "reconnect" in str(caught[0])
    assert shell.close() is False
    # Nobody can reach the device now: it cleans up by itself.
    (device.folder / "runs").touch()
    wait_until(lambda: not device.folders)
    wait_until(lambda: not device.processes())


def test_a_program_that_takes_too_long(shell, device):
    running = Path(device.here(shell.folder), "running")
    for timeout_s in (0.5, 5, 50):  # a busy machine has not started it by then
        with pytest.raises(ToolchainError, match=f"did not answer within {timeout_s:g} s"):
            shell.run(SLEEP, timeout_s)
        if running.exists():
            break
    assert shell.close()
    wait_until(lambda: not device.processes())
    assert device.folders == []


CHILD = """
import sys
from mnv4_deploy.device.android.adb import Adb
from mnv4_deploy.device.android.adb_shell import AdbShell
shell = AdbShell(Adb(sys.argv[1], sys.argv[2]), "/data/local/tmp")
try:
    print("ready", flush=True)
    shell.run(sys.argv[3:], 60)
finally:
    shell.close()
"""


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_a_host_that_ends_in_the_middle(program, device, kind):
    command = [sys.executable, "-c", CHILD, program, device.serial, *SLEEP]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    wait_until(sleeping)
    child.send_signal(kind)
    child.communicate(timeout=PATIENCE_S)
    if kind == signal.SIGINT:  # cleaned up before it ended
        assert device.folders == []
    (device.folder / "runs").touch()
    wait_until(lambda: not device.folders)
    wait_until(lambda: not device.processes())


def test_what_dead_runs_left_is_swept_and_living_runs_stay(program, device, shell):
    for name, watchdog in (
        ("0" * 16, "999999"),
        ("1" * 16, "1"),
        ("2" * 16, "x; rm"),
        ("3" * 16, ""),
    ):
        folder = device.tmp / f"{PREFIX}{name}"
        folder.mkdir()
        (folder / "model-0.tflite").write_bytes(b"x")
        (folder / "owner").write_text(f"{MARK}\n")
        (folder / "watchdog").write_text(f"{watchdog}\n")
    (device.tmp / "somebody-else").mkdir()
    other = AdbShell(Adb(program, device.serial), ROOT)
    found = device.folders
    other.close()
    assert found == sorted(s.folder.rpartition("/")[2] for s in (shell, other))
    assert (device.tmp / "somebody-else").is_dir()


@pytest.mark.parametrize("owner", [None, "", "somebody"])
@pytest.mark.parametrize("watchdog", [None, "999999"])
def test_a_folder_of_such_a_name_without_our_mark_stays(program, device, owner, watchdog):
    theirs = device.tmp / f"{PREFIX}thesis"
    theirs.mkdir()
    (theirs / "chapter1.tex").write_text("somebody else's")
    for name, text in (("owner", owner), ("watchdog", watchdog)):
        if text is not None:
            (theirs / name).write_text(f"{text}\n")
    (device.tmp / f"{PREFIX}link").symlink_to(theirs)
    AdbShell(Adb(program, device.serial), ROOT).close()
    assert (theirs / "chapter1.tex").read_text() == "somebody else's"
    assert (device.tmp / f"{PREFIX}link").is_symlink()


@pytest.mark.parametrize("root", ["/data/local/tmp/none", "/proc"])
def test_a_folder_that_cannot_be_made(program, device, root):
    with pytest.raises(OutputError, match="name one that its shell may write to"):
        AdbShell(Adb(program, device.serial), root)
    assert device.processes() == []


def test_another_folder_with_a_hostile_name(program, device, tmp_path):
    planted = tmp_path / "planted"
    name = "$(touch planted) '; touch planted"
    (device.tmp / name).mkdir()
    shell = AdbShell(Adb(program, device.serial), f"{ROOT}/{name}")
    assert shell.run(["pwd"], PATIENCE_S).code == 0
    wait_until(lambda: list((device.tmp / name).glob("*/heartbeat")))
    assert shell.close()
    assert list((device.tmp / name).iterdir()) == []
    assert not planted.exists()
    assert not (device.folder / "planted").exists()
