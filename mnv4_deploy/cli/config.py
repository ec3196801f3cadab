"""Defaults that a project gives the options of commands: ``mnv4-deploy.toml``.

    [profile]
    threads = 4

    [drift]
    fail-if = ["top1_drop > 0.5"]

The file is looked for in the current folder alone, which is what relative paths in it count from.
"""

from __future__ import annotations

import difflib
import os
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import typer

from mnv4_deploy.cli.talk import current
from mnv4_deploy.errors import InputError
from mnv4_deploy.profiles.files.regular import read_regular
from mnv4_deploy.streams import LOG
from mnv4_deploy.text import clean

CONFIG = "mnv4-deploy.toml"
_MAX_BYTES = 1 << 20
# By a parameter's type: what TOML may have for it, and in words.
_VALUES: Mapping[Any, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str, int, float), "text"),
    Path: ((str,), "a path, as text"),
}


def use_project_defaults(ctx: typer.Context, words: Sequence[str]) -> None:
    """Make what the file says the defaults of the command of ``ctx``, if there is one.

    Not for a command line, ``words``, that asks for help. Raises InputError naming file, table
    and key of what cannot be used, also in the tables of other commands.
    """
    path, main = Path(CONFIG), ctx.parent
    if main is None or main.params["no_config"] or ctx.resilient_parsing:
        return
    # Nor is there one in a folder that may not be entered, or has been removed.
    if set(ctx.help_option_names) & set(words) or not os.path.lexists(path):
        return
    commands: Mapping[str, Any] = main.command.commands  # type: ignore[attr-defined]
    own = project_defaults(path, commands).get(str(ctx.info_name), {})
    ctx.default_map = own
    talk = current()
    talk.as_json = own.get("as_json", False)
    used = f"defaults from {clean(str(path.absolute()))}"
    LOG.info("%s", used)
    if talk.verbose:
        sys.stderr.write(f"{used}\n")


def project_defaults(path: Path, commands: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The values in ``path`` by command and by parameter. Raises InputError."""
    try:
        tables = tomllib.loads(read_regular(path, max_bytes=_MAX_BYTES).decode())
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}).") from error
    except ValueError as error:  # of TOML, or of UTF-8
        raise InputError(f"{path} is no TOML ({error}): mend or remove it.") from error
    found: dict[str, dict[str, Any]] = {}
    for name, table in tables.items():
        if name not in commands:
            raise InputError(
                f"{path}: [{name}] is no command: give a table for {_near(name, commands)}."
            )
        if not isinstance(table, dict):
            raise InputError(f"{path}: {name} is no table: write [{name}], and options below.")
        found[name] = _values(f"{path}: [{name}]", table, commands[name])
    return found


def _values(where: str, table: Mapping[str, Any], command: Any) -> dict[str, Any]:
    parameters = _parameters(command)
    hints = get_type_hints(command.callback)
    found: dict[str, Any] = {}
    for key, value in table.items():
        if key not in parameters:
            raise InputError(f"{where} {key} is no option of it: give {_near(key, parameters)}.")
        found[parameters[key]] = _value(f"{where} {key}", value, hints[parameters[key]])
    return found


def _parameters(command: Any) -> dict[str, str]:
    """The parameters of a command by the names of their options, without dashes.

    What is an argument too is only told by the command line, which decides between the two.
    """
    arguments = {entry.name for entry in command.params if entry.param_type_name == "argument"}
    options = {
        max(entry.opts, key=len).lstrip("-"): entry.name
        for entry in command.params
        if entry.param_type_name == "option"
    }
    return {key: name for key, name in options.items() if key not in arguments}


def _value(where: str, value: Any, hint: Any) -> Any:
    several = list in [get_origin(part) for part in (hint, *get_args(hint))]
    kind = _scalar(hint)
    allowed, words = _VALUES[kind]
    values = value if several and isinstance(value, list) else [value]
    if several is not isinstance(value, list) or not all(_fits(one, allowed) for one in values):
        raise InputError(
            f"{where} cannot be {value!r}: give {'a list of ' if several else ''}{words}."
        )
    plain = [str(one) if kind is Path else kind(one) for one in values]
    return plain if several else plain[0]


def _scalar(hint: Any) -> Any:
    """What an option is of, or one of its values: ``int`` of ``list[int] | None``."""
    parts = [part for part in get_args(hint) if part is not NoneType]
    return _scalar(parts[0]) if parts else hint


def _fits(value: Any, allowed: tuple[type, ...]) -> bool:
    return isinstance(value, allowed) and (bool in allowed or not isinstance(value, bool))


def _near(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    return " or ".join(difflib.get_close_matches(name, names, n=2)) or ", ".join(names)
