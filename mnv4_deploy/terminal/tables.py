"""Tables whose figures stay whole at any width: texts give way, the longest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

NAME_WIDTH = 38  # of a module or a layer, where there is room
_LEAST_NAME = 16
_LEAST_WIDTH = 5  # of a text: a letter or two at both ends
_GAP = 2


@dataclass(frozen=True)
class Column:
    """``is_text``: its cells may be shortened, in the middle. ``most`` is the width that they get
    even where there is room for more, ``least`` the one that they keep as long as others can give
    way."""

    title: str
    is_text: bool = False
    justify: Literal["left", "right"] = "right"
    most: int = 1000
    least: int = _LEAST_WIDTH

    @classmethod
    def text(cls, title: str, most: int = 1000, least: int = _LEAST_WIDTH) -> Column:
        return cls(title, is_text=True, justify="left", most=most, least=least)

    @classmethod
    def whole(cls, title: str) -> Column:
        """Of what is copied, or is short: never shortened."""
        return cls(title, justify="left")

    @classmethod
    def name(cls, title: str, most: int = NAME_WIDTH) -> Column:
        """Of what a row is about."""
        return cls.text(title, most, _LEAST_NAME)


def print_table(
    console: Console,
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    styles: Sequence[str] = (),
) -> None:
    """One line for each of ``rows``, which may have fewer cells than there are ``columns``.

    Cells are as they are to be read, without markup; ``styles`` are those of the rows. Where even
    the shortest texts leave no room for the figures, the table is wider than ``console``.
    """
    widths = _widths(columns, rows, console.width)
    titles = [column.title for column in columns]
    console.print(_line(columns, widths, titles, "bold"), soft_wrap=True)
    for at, row in enumerate(rows):
        style = styles[at] if at < len(styles) else ""
        console.print(_line(columns, widths, row, style), soft_wrap=True)


def _line(
    columns: Sequence[Column], widths: Sequence[int], row: Sequence[str], style: str
) -> Text:
    cells = []
    for column, width, cell in zip(columns, widths, row, strict=False):
        shown = short(cell, width) if column.is_text else cell
        padding = " " * (width - cell_len(shown))
        cells.append(shown + padding if column.justify == "left" else padding + shown)
    return Text((" " * _GAP).join(cells).rstrip(" "), style=style)


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[str]], available: int) -> list[int]:
    widths = [
        min(
            column.most if column.is_text else 1000,
            max([cell_len(column.title), *(cell_len(row[i]) for row in rows if i < len(row))]),
        )
        for i, column in enumerate(columns)
    ]
    texts = [i for i, column in enumerate(columns) if column.is_text]
    # The last column needs no gap behind it.
    excess = sum(widths) + _GAP * (len(widths) - 1) - available
    for least in ([column.least for column in columns], [_LEAST_WIDTH] * len(columns)):
        while excess > 0:
            wide = [i for i in texts if widths[i] > least[i]]
            if not wide:
                break
            widths[max(wide, key=lambda i: widths[i])] -= 1
            excess -= 1
    return widths


def short(text: str, width: int = NAME_WIDTH) -> str:
    """Shortened in the middle: both ends of a module path tell something."""
    printable = "".join(c if c.isprintable() else "?" for c in text)
    if cell_len(printable) <= width:
        return printable
    head = max(2, width // 3)
    tail = width - head - 1
    return f"{_first(printable, head)}…{_last(printable, tail)}"


def _first(text: str, width: int) -> str:
    while cell_len(text) > width:
        text = text[:-1]
    return text


def _last(text: str, width: int) -> str:
    while cell_len(text) > width:
        text = text[1:]
    return text
