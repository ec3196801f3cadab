"""The connection to a Dask scheduler: its TLS settings, and in words what is wrong with it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import ipaddress
import logging
import socket
import ssl
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

from mnv4_deploy.errors import InputError, missing_library

CONNECT_SECONDS = 5
_START = "start 'dask scheduler' there and 'dask worker HOST:8786' on each machine"
WITH_FILES = "with --tls-ca-file, --tls-cert and --tls-key"
_START_TLS = (
    "start 'dask scheduler --protocol tls' there and 'dask worker tls://HOST:8786' on each "
    f"machine, both {WITH_FILES}"
)
_LOGGERS = ("asyncio", "distributed", "tornado")
ENCRYPTED = ("tls", "wss")
# Dask's settings, named where one has to change. There are no options of ours beside them.
_TLS = "distributed.comm.tls"
_CA, _CERT, _KEY = f"{_TLS}.ca-file", f"{_TLS}.client.cert", f"{_TLS}.client.key"


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    if address.startswith("ray://"):
        raise InputError(
            f"{address!r} is a Ray cluster and drift runs on Dask: on the same machines {_START}, "
            "then give --cluster tcp://HOST:8786."
        )
    try:
        distributed = library()
    except ImportError as error:
        raise missing_library("--cluster needs Dask", "cluster") from error
    except ValueError as error:  # from a YAML file of the user's
        raise InputError(
            f"Dask cannot read its configuration: {brief(error).partition(', original')[0]}."
        ) from error
    # Image bytes are sent on purpose, and versions are compared here.
    settings = {
        "distributed.admin.large-graph-warning-threshold": "10GB",
        "distributed.comm.timeouts.connect": f"{CONNECT_SECONDS}s",
    }
    with _quiet(), importlib.import_module("dask").config.set(settings):
        security = _security(address)
        _check_answers(address, security)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            client = distributed.Client(
                address, timeout=CONNECT_SECONDS, set_as_default=False, security=security
            )
        try:
            yield client
        finally:
            with contextlib.suppress(Exception):
                client.close(timeout=CONNECT_SECONDS)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what Dask and what it runs on logs off the terminal: what matters of it is raised.

    Dask gives its loggers levels of their own, so their parent's would not do.
    """
    found = [
        logging.getLogger(name)
        for name in logging.root.manager.loggerDict
        if name.partition(".")[0] in _LOGGERS
    ]
    levels = [logger.level for logger in found]
    for logger in found:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(found, levels, strict=True):
            logger.setLevel(level)


def _security(address: str) -> Any:
    """Dask's own TLS settings. Raises InputError where they do not go with ``address``."""
    distributed = library()
    scheme, rest = distributed.comm.parse_address(address)
    try:
        security = distributed.Security()
    except ValueError as error:  # a version of TLS that there is not: Dask names the setting
        raise InputError(f"Dask's configuration cannot be used: {error}.") from error
    if security.require_encryption and scheme not in (*ENCRYPTED, "inproc"):
        raise InputError(
            f"{address!r} is not encrypted, and Dask's distributed.comm.require-encryption is on "
            f"here: give tls://{rest}."
        )
    values = {
        _CA: security.tls_ca_file,
        _CERT: security.tls_client_cert,
        _KEY: security.tls_client_key or security.tls_client_cert,  # one file can have both
    }
    unset = [setting for setting, value in values.items() if not value]
    if unset and scheme in ENCRYPTED:
        raise InputError(
            f"{address!r} needs certificates: set Dask's {', '.join(unset)} to PEM files, in its "
            f"configuration or as {', '.join(map(_variable, unset))}."
        )
    if not unset:  # otherwise Dask uses none of them
        _check_files(security, values)
    return security


def _variable(setting: str) -> str:
    return f"DASK_{setting.upper().replace('.', '__').replace('-', '_')}"


def _check_files(security: Any, values: dict[str, str]) -> None:
    """Raise InputError for a file that cannot be used: OpenSSL would not say which one."""
    texts = {setting: _text(setting, value) for setting, value in values.items()}
    for setting, text in texts.items():
        what = "PRIVATE KEY" if setting == _KEY else "CERTIFICATE"
        if f"{what}-----" not in text:
            raise InputError(
                f"Dask's {setting} has to be a PEM file with a {what.lower()}, and "
                f"{_shown(values[setting])} has none."
            )
    if "ENCRYPTED" in texts[_KEY]:  # OpenSSL would ask on the terminal, for every connection
        raise InputError(
            f"The key in Dask's {_KEY} has a passphrase, which Dask cannot use: 'openssl pkey "
            f"-in {_shown(values[_KEY])} -out FILE' writes one without."
        )
    setting = ""
    try:
        for setting in (_CA, _CERT):
            is_text = "\n" in (value := values[setting])
            ssl.create_default_context(
                cafile=None if is_text else value, cadata=value if is_text else None
            )
        setting = f"{_KEY} (for {_CERT})"
        security.get_connection_args("client")
    except (OSError, ValueError) as error:
        if "cipher" in str(error):
            setting = f"{_TLS}.ciphers"
        raise InputError(f"Dask's {setting} cannot be used: {_reason(error)}.") from error


def _text(setting: str, value: str) -> str:
    """Dask takes a path or the text itself."""
    if "\n" in str(value):
        return value
    try:
        return Path(str(value)).read_text("latin-1")
    except OSError as error:
        raise InputError(
            f"Dask's {setting} cannot be read: {str(value)!r} ({error.strerror})."
        ) from error


def _shown(value: str) -> str:
    return "the text given" if "\n" in value else value


def _alert(error: Exception) -> str:
    """OpenSSL's name of what went wrong; "" for what has none."""
    return getattr(error, "reason", None) or ""


def _reason(error: Exception) -> str:
    words = _alert(error).rpartition("ALERT_")[2].replace("_", " ").lower()
    return words or str(error.args[-1]).rstrip(".")


def _check_answers(address: str, security: Any) -> None:
    """Raise InputError unless a scheduler answers.

    A ``Client`` that finds none leaves its thread behind, which can block the next one's start.
    """
    arguments = security.get_connection_args("client")
    # In a thread, as this one may have an event loop at work (a notebook's).
    with ThreadPoolExecutor(1) as thread:
        try:
            found = thread.submit(lambda: asyncio.run(_identity(address, arguments))).result()
        except Exception as error:  # of as many kinds as there are wrong addresses
            scheme, _ = library().comm.parse_address(address)
            raise InputError(
                _mismatch(address, arguments["ssl_context"])
                or f"No Dask scheduler answers at {address!r} within {CONNECT_SECONDS} s: give "
                "the address that it printed when it started, or "
                f"{_START_TLS if scheme in ENCRYPTED else _START}."
            ) from error
    if found.get("type") != "Scheduler":
        raise InputError(
            f"At {address!r} is a Dask {str(found.get('type')).lower()}: give its scheduler's "
            "address."
        )


async def _identity(address: str, arguments: dict[str, Any]) -> dict[str, Any]:
    scheduler = library().core.rpc(address, connection_args=arguments)
    async with asyncio.timeout(CONNECT_SECONDS), scheduler:
        return dict(await scheduler.identity())


def _mismatch(address: str, context: ssl.SSLContext | None) -> str:
    """Why a scheduler that is there and we do not get to talk; "" if it is not about TLS.

    Found out with sockets of our own: Dask's error depends on who was faster, and Dask unpickles
    what it gets, which one that has shown no certificate must not have us do.
    """
    comm = library().comm
    scheme, rest = comm.parse_address(address)
    try:
        place = comm.parse_host_port(rest)
        if scheme == "tcp" and _speaks_tls(place):
            return f"The scheduler at {address!r} speaks TLS only: give tls://{rest}."
        if scheme == "tls" and context:
            _listen(place, context)
    except ssl.SSLCertVerificationError as error:
        late = error.verify_code in (9, 10)  # OpenSSL's for "not yet valid" and "has expired"
        remedy = "renew it" if late else f"set Dask's {_CA} to the CA that signed it"
        return (
            f"The certificate of the scheduler at {address!r} is not accepted here "
            f"({error.verify_message}): {remedy}."
        )
    except (TimeoutError, ValueError, OverflowError):  # silence, or no address at all
        return ""
    except OSError as error:
        return _refusal(address, place, error)
    return ""


def _refusal(address: str, place: tuple[str, int], error: OSError) -> str:
    alert = _alert(error)
    if "ALERT" in alert and ("UNKNOWN_CA" in alert or "CERTIFICATE" in alert):
        remedy = "a renewed one" if "EXPIRED" in alert else "one that its CA signed"
        return (
            f"The scheduler at {address!r} does not accept our certificate ({_reason(error)}): "
            f"set Dask's {_CERT} and {_KEY} to {remedy}."
        )
    if "ALERT" in alert:
        return (
            f"The scheduler at {address!r} and we have no way of TLS in common "
            f"({_reason(error)}): change Dask's {_TLS}.min-version, max-version or ciphers."
        )
    if _speaks_plainly(place):
        return (
            f"The scheduler at {address!r} does not speak TLS: start it with --protocol tls, "
            f"{WITH_FILES}, or give tcp://{address.rpartition('://')[2]}."
        )
    return ""


def _listen(place: tuple[str, int], context: ssl.SSLContext) -> None:
    """Wait for the first byte, as TLS 1.3 refuses a client only after the client's handshake.

    A Dask scheduler speaks first. Whoever spoke before it would have its refusal reset.
    """
    with (
        socket.create_connection(place, CONNECT_SECONDS) as plain,
        context.wrap_socket(plain) as encrypted,
    ):
        encrypted.recv(1)


def _speaks_tls(place: tuple[str, int]) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection(place, CONNECT_SECONDS) as plain,
            context.wrap_socket(plain),
        ):
            return True
    except OSError as error:
        return "ALERT" in _alert(error)


def _speaks_plainly(place: tuple[str, int]) -> bool:
    """Whether a Dask scheduler without TLS is there: it begins with a length in eight bytes."""
    try:
        with socket.create_connection(place, CONNECT_SECONDS) as plain:
            first = plain.recv(8)
    except OSError:
        return False
    return len(first) == 8 and int.from_bytes(first, "little") < 1 << 20


def is_exposed(address: str) -> bool:
    """Whether an unencrypted scheduler listens where other machines may reach it."""
    comm = library().comm
    scheme, rest = comm.parse_address(address)
    if scheme in (*ENCRYPTED, "inproc"):
        return False
    host, _ = comm.parse_host_port(rest)
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return True
    return not all(ipaddress.ip_address(one).is_loopback for one in found)


def library() -> Any:
    """Typed in part only, so used as if not at all."""
    return importlib.import_module("distributed")


def brief(error: BaseException) -> str:
    lines = chain(str(error).splitlines(), [type(error).__name__])
    return next(line for line in lines if line.strip())[:200]
