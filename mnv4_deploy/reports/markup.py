"""HTML and SVG from Python in which no text can become markup."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from html import escape

from mnv4_deploy.text import clean, shorten

_VOID = frozenset({"br", "img", "input"})


class Markup(str):
    """Text that is markup already. Everything else is escaped where it is put into a tag."""

    __slots__ = ()


@lru_cache(maxsize=4096)
def brief(name: str, limit: int) -> str:
    """A name from a file without characters that are not seen, in at most ``limit``."""
    return shorten(clean(name), limit)


def tag(name: str, *children: str, **attributes: str | float | None) -> Markup:
    """An element. An attribute's ``_`` becomes ``-``, one at its end is dropped; None: left out.

    Children and attributes that are not ``Markup`` lose characters that are not seen and are
    escaped.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{joined(children)}</{name}>")


def joined(parts: Iterable[str], separator: str = "") -> Markup:
    """The parts one after the other, each escaped unless it is ``Markup``."""
    return Markup(text(separator).join(map(text, parts)))


def text(part: str) -> Markup:
    if isinstance(part, Markup):
        return part
    # A space at an end keeps words apart; ``clean`` strips it.
    before, after = part[:1].isspace(), part[-1:].isspace()
    return Markup(" " * before + escape(clean(part)) + " " * (after and bool(part.strip())))


def _attribute(value: str | float) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    # New lines are kept: hover texts have several.
    return "&#10;".join(escape(clean(line)) for line in str(value).split("\n"))
