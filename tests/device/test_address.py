"""Addresses of devices, and everything that must not pass for one."""

from __future__ import annotations

import pytest

from mnv4_deploy.device.address import parse_address
from mnv4_deploy.device.open import open_device
from mnv4_deploy.errors import UnsupportedError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("local", ("local", "", None)),
        ("ssh://pi", ("ssh", "pi", None)),
        ("ssh://pi@raspberrypi.local", ("ssh", "pi@raspberrypi.local", None)),
        ("ssh://pi@10.0.0.7:2222", ("ssh", "pi@10.0.0.7", 2222)),
        ("ssh://[fe80::1]", ("ssh", "fe80::1", None)),
        ("ssh://pi@[fe80::1%eth0]:22", ("ssh", "pi@fe80::1%eth0", 22)),
        ("ssh://my_board-2.lab", ("ssh", "my_board-2.lab", None)),
        ("ssh://pi@x:65535", ("ssh", "pi@x", 65535)),
        ("adb", ("adb", "", None)),
        ("adb://", ("adb", "", None)),
        ("adb://emulator-5554", ("adb", "emulator-5554", None)),
        ("adb://192.168.0.5:5555", ("adb", "192.168.0.5:5555", None)),
        ("adb://0123456789ABCDEF", ("adb", "0123456789ABCDEF", None)),
        ("adb://[fe80::1]:5555", ("adb", "[fe80::1]:5555", None)),
        (
            "adb://adb-R58M123-AbCd12._adb-tls-connect._tcp",
            ("adb", "adb-R58M123-AbCd12._adb-tls-connect._tcp", None),
        ),
    ],
)
def test_addresses(text: str, expected: tuple[str, str, int | None]) -> None:
    address = parse_address(text)
    assert (address.scheme, address.target, address.port) == expected
    assert address.text == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "pi@board",
        "LOCAL",
        "local://",
        "local ",
        "ftp://board",
        "ssh:board",
        "ssh://",
        "ssh://@board",
        "ssh://pi@",
        "ssh://-oProxyCommand=touch x",
        "ssh://-oProxyCommand=x",
        "ssh://-l@board",
        "ssh://pi@-board",
        "ssh://board:",
        "ssh://board:0",
        "ssh://board:65536",
        "ssh://board:-1",
        "ssh://board: 22",
        "ssh://board:\uff12\uff12",
        "ssh://board:000000022",
        "ssh://board/home",
        "ssh://board?x",
        "ssh://board#x",
        "ssh://bo ard",
        "ssh://bo\nard",
        "ssh://bo\0ard",
        "ssh://board\n",
        "ssh://$(id)",
        "ssh://`id`",
        "ssh://a;b",
        "ssh://a|b",
        "ssh://a&b",
        "ssh://a'b",
        'ssh://a"b',
        "ssh://a\\b",
        "ssh://a*b",
        "ssh://a@b@c",
        "ssh://fe80::1",
        "ssh://[fe80::1",
        "ssh://[board]",
        "ssh://[fe80::1]x",
        "ssh://[fe80::1%-o]",
        "ssh://[fe80::1%]",
        "ssh://bücher",
        "adb:",
        "adb://-s",
        "adb://a b",
        "adb://a;b",
        "adb://$(id)",
        "adb://a/b",
        "adb://a\n",
        "adbx",
    ],
)
def test_everything_else_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        parse_address(text)
    message = str(caught.value)
    assert message.endswith(".") and message.isprintable()


def test_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(UnsupportedError, match="keys are OpenSSH's business") as caught:
        parse_address("ssh://pi:hunter2@board")
    assert "hunter2" not in str(caught.value)


def test_opening_checks_the_address_first() -> None:
    with pytest.raises(UnsupportedError, match="is no device: give local, ssh://"):
        open_device("board")
