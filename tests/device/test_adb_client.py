"""Lists of attached devices, the choice among them, and an adb that does not work."""

from pathlib import Path

import pytest

from mnv4_deploy.device.android.adb import Adb, Attached, choose, find_adb, parse_devices
from mnv4_deploy.errors import InputError, OutputError, ToolchainError, UnsupportedError

# Of adb 1.0.41; the forms of the states are those of transport.cpp and of adb's help on USB
# permissions.
LISTED = """* daemon not running; starting now at tcp:5037
* daemon started successfully
List of devices attached
2B091FDH2001XY         device usb:1-4 product:panther model:Pixel_7 device:panther transport_id:1
emulator-5554          offline transport_id:2
082f59270073e1e3       no permissions (user in plugdev group; are your udev rules wrong?); see [http://developer.android.com/tools/device.html] usb:1-2 transport_id:3
R58M123ABC             unauthorized usb:3-1 transport_id:4
192.168.1.20:5555      device product:a52q model:SM_A526B device:a52q transport_id:5
(no serial number)     recovery usb:2-2 transport_id:6

"""  # noqa: E501


def test_all_forms_of_a_list_are_read():
    assert parse_devices(LISTED) == (
        Attached("2B091FDH2001XY", "device", "Pixel_7"),
        Attached("emulator-5554", "offline"),
        Attached("082f59270073e1e3", "no permissions"),
        Attached("R58M123ABC", "unauthorized"),
        Attached("192.168.1.20:5555", "device", "SM_A526B"),
        Attached("(no serial number)", "recovery"),
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "List of devices attached\n\n",
        "garbage\nmore",
        "List of devices attached\n\x1b[2J device",
    ],
)
def test_no_list_holds_no_device(text):
    assert parse_devices(text) == ()


def test_the_only_device_that_works_is_chosen():
    attached = [Attached("charging", "unauthorized"), Attached("A1", "device")]
    assert choose(attached, "").serial == "A1"


def test_a_named_device_is_chosen_among_several():
    assert choose(parse_devices(LISTED), "192.168.1.20:5555").model == "SM_A526B"


def test_none_attached():
    with pytest.raises(InputError, match="No Android device is attached: connect one"):
        choose([], "")


def test_two_attached_and_none_named_lists_them():
    with pytest.raises(UnsupportedError) as caught:
        choose(parse_devices(LISTED), "")
    assert "2B091FDH2001XY (Pixel 7)" in str(caught.value)
    assert "192.168.1.20:5555 (SM A526B)" in str(caught.value)
    assert "as adb://2B091FDH2001XY" in str(caught.value)


@pytest.mark.parametrize("wanted", ["-s", "x; reboot", "$(reboot)", "2B091FDH2001X"])
def test_an_unknown_serial_lists_what_is_there(wanted):
    with pytest.raises(InputError) as caught:
        choose(parse_devices(LISTED), wanted)
    assert repr(wanted) in str(caught.value)
    assert "emulator-5554 (offline)" in str(caught.value)


@pytest.mark.parametrize(
    ("serial", "what"),
    [
        ("emulator-5554", "is offline: reconnect its cable"),
        ("082f59270073e1e3", "udev rules"),
        ("R58M123ABC", "unlock it and accept the key"),
        ("(no serial number)", "is in the state 'recovery'"),
    ],
)
def test_a_device_that_is_not_ready_says_what_to_do(serial, what):
    with pytest.raises(InputError, match=what.replace("(", r"\(")):
        choose(parse_devices(LISTED), serial)


def program(folder: Path, script: str) -> str:
    path = folder / "adb"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_a_server_that_cannot_start(tmp_path):
    said = "echo 'could not read ok from ADB Server' >&2; echo '* failed to start daemon' >&2"
    with pytest.raises(ToolchainError, match=r"server cannot start \(\* failed .* start-server"):
        Adb(program(tmp_path, f"{said}; exit 1")).devices()


def test_a_program_that_cannot_run(tmp_path):
    (tmp_path / "adb").write_bytes(b"\x7fELF nonsense")
    (tmp_path / "adb").chmod(0o755)
    with pytest.raises(ToolchainError, match="cannot run"):
        Adb(str(tmp_path / "adb")).devices()


def test_a_device_that_does_not_answer_in_time(tmp_path):
    with pytest.raises(ToolchainError, match=r"device A1 did not answer within 0\.2 s"):
        Adb(program(tmp_path, "exec sleep 3600"), "A1").call("shell", "x", timeout_s=0.2)


def test_no_adb_on_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("ANDROID_HOME", raising=False)
    monkeypatch.delenv("ANDROID_SDK_ROOT", raising=False)
    with pytest.raises(ToolchainError, match="There is no adb here: install"):
        find_adb()


def test_adb_of_an_sdk_is_found(monkeypatch, tmp_path):
    (tmp_path / "sdk/platform-tools").mkdir(parents=True)
    found = program(tmp_path / "sdk/platform-tools", "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("ANDROID_HOME", str(tmp_path / "sdk"))
    assert find_adb() == found


@pytest.mark.parametrize(
    ("said", "kind", "what"),
    [
        ("adb: error: remote write failed: No space left on device", OutputError, "is full"),
        ("error: device 'A1' not found", ToolchainError, "is gone"),
        ("error: device offline", ToolchainError, "is offline"),
        ("error: device unauthorized.\nThis adb server's ...", ToolchainError, "accept the key"),
        ("error: closed", ToolchainError, r"lost while x ran \(error: closed\): reconnect"),
        ("a\x1b[2Jb", ToolchainError, r"\(a \[2Jb\)"),
        ("", ToolchainError, "lost while x ran: reconnect"),
    ],
)
def test_what_adb_says_becomes_a_sentence(said, kind, what):
    error = Adb("adb", "A1").failure(said, "x ran")
    assert type(error) is kind
    with pytest.raises(kind, match=what):
        raise error
