"""How devices are named: local, ssh://[user@]host[:port], adb and adb://serial."""

from __future__ import annotations

import ipaddress
import re

from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.profiles.records.device import DeviceAddress

_FORMS = "give local, ssh://[user@]host[:port], adb or adb://serial"
# Letters, digits and what host aliases, user names and serials have besides. None of them means
# anything to a shell, and none can start an option.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_SERIAL = re.compile(r"[A-Za-z0-9_\[][A-Za-z0-9_.:\[\]-]*")
_SSH = re.compile(r"(?:(?P<user>[^@]*)@)?(?P<host>\[[^\]]*\]|[^:\[\]]*)(?::(?P<port>.*))?")
_MAX_PORT = 65535


def parse_address(text: str) -> DeviceAddress:
    """The device that ``text`` names; UnsupportedError for anything else than an address.

    Keys, passwords, jump hosts and the like are the business of OpenSSH's own configuration.
    """
    scheme, separator, rest = text.partition("://")
    if text == "local":
        return DeviceAddress("local", "", text)
    if text in ("adb", "adb://"):
        return DeviceAddress("adb", "", text)
    if scheme == "adb" and separator:
        return _adb(rest, text)
    if scheme == "ssh" and separator:
        return _ssh(rest, text)
    raise UnsupportedError(f"{_shown(text)} is no device: {_FORMS}.")


def _adb(serial: str, text: str) -> DeviceAddress:
    if not _SERIAL.fullmatch(serial):
        raise UnsupportedError(
            f"{_shown(text)} has no serial of a device: take one that adb devices lists."
        )
    return DeviceAddress("adb", serial, text)


def _ssh(rest: str, text: str) -> DeviceAddress:
    if any(sign in rest for sign in "/?#"):
        raise UnsupportedError(
            f"{_shown(text)} has more than a host in it: give ssh://[user@]host[:port], with no"
            " path."
        )
    match = _SSH.fullmatch(rest)
    if match is None:
        raise UnsupportedError(
            f"{_shown(text)} is no address: give ssh://[user@]host[:port], with an IPv6 address"
            " in brackets."
        )
    user, host, port = match["user"], match["host"], match["port"]
    if user is not None and ":" in user:
        raise UnsupportedError(
            "A password in an address would be there for all to read: keys are OpenSSH's"
            " business, so give ssh://[user@]host[:port] and set up a key with ssh-copy-id."
        )
    if user is not None and not _NAME.fullmatch(user):
        raise UnsupportedError(f"{_shown(text)} has no user name before the @: {_FORMS}.")
    name = _host(host, text)
    return DeviceAddress(
        "ssh", name if user is None else f"{user}@{name}", text, _port(port, text)
    )


def _host(host: str, text: str) -> str:
    if host.startswith("["):
        address, percent, zone = host[1:-1].partition("%")
        try:
            ipaddress.IPv6Address(address)
            right = not percent or _NAME.fullmatch(zone) is not None
        except ValueError:
            right = False
        if not right:
            raise UnsupportedError(f"{_shown(text)} has no IPv6 address in its brackets.")
        return host[1:-1]
    if not _NAME.fullmatch(host):
        raise UnsupportedError(f"{_shown(text)} has no host name: {_FORMS}.")
    return host


def _port(port: str | None, text: str) -> int | None:
    if port is None:
        return None
    digits = port.isascii() and port.isdigit() and len(port) <= 5
    if not (digits and 1 <= int(port) <= _MAX_PORT):
        raise UnsupportedError(
            f"{_shown(text)} has no port after the colon: give 1 to {_MAX_PORT}."
        )
    return int(port)


def _shown(text: str) -> str:
    """The text as given, with what a terminal would obey spelled out."""
    return text if text.isprintable() and text.strip() else repr(text)
