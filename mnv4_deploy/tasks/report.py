"""What a task has to say of two networks, for the terminal and for pages alike.

Text is plain: whoever prints it escapes it. No colours, no markup, no width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["", "right", "wrong"]


@dataclass(frozen=True)
class Measured:
    """A figure, with its 95 % interval where there is one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Comparison:
    """One figure of both networks: a row of the table, a pair of bars.

    ``difference`` is what the candidate lost, in the unit that ``note`` begins with.
    """

    name: str
    unit: str
    reference: Measured | None = None
    candidate: Measured | None = None
    difference: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Table:
    """``columns`` are (title, whether it is text). ``empty`` is said instead of no rows."""

    title: str
    note: str
    columns: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[str, ...], ...]
    empty: str


@dataclass(frozen=True)
class CardLine:
    """One answer for an image."""

    title: str
    text: str
    state: State = ""


@dataclass(frozen=True)
class ImageCard:
    """An image that changed much. ``note`` says by how much."""

    name: str
    path: str
    lines: tuple[CardLine, ...]
    note: str


@dataclass(frozen=True)
class TaskReport:
    """``headline`` and ``sentences`` say what it cost, ``key_figures`` are (figure, its name).

    ``facts`` are (name, value) below the comparisons, ``methods`` (name, how it is computed).
    ``missing`` says what cannot be told without known answers, "" where they are known.
    """

    comparisons: tuple[Comparison, ...]
    headline: str
    sentences: tuple[str, ...]
    key_figures: tuple[tuple[str, str], ...]
    facts: tuple[tuple[str, str], ...] = ()
    cards_note: str = ""
    cards: tuple[ImageCard, ...] = ()
    tables: tuple[Table, ...] = ()
    methods: tuple[tuple[str, str], ...] = ()
    missing: str = ""
