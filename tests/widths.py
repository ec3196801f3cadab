"""Whether what a command prints for people keeps its figures and words at any width."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable

from rich.console import Console

from mnv4_deploy.console import PlainConsole

WIDTHS = (80, 100, 120)
_WIDE = 1000
_SHORTENED = "…"
# No digits of a name, such as blocks.3 or int8, which may be shortened.
_NUMBER = re.compile(rf"(?<![\w.{_SHORTENED}/-])[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")

Show = Callable[[Console], object]


def figures(text: str) -> Counter[float]:
    """Every number in ``text`` that is in no name."""
    found = (match.replace(",", "") for match in _NUMBER.findall(text))
    return Counter(float(number) for number in found)


def assert_whole_at_every_width(show: Show) -> None:
    """What ``show`` prints on a terminal of 80, 100 or 120 columns, and to a program, has every
    figure and every word of what it prints where there is no end; only names are shortened."""
    wide = _printed(show, Console(width=_WIDE, file=io.StringIO()))
    assert figures(wide)
    for width in WIDTHS:
        narrow = _printed(show, Console(width=width, file=io.StringIO()))
        assert figures(narrow) == figures(wide), width
        new = Counter(narrow.split()) - Counter(wide.split())
        long = [word for word in wide.split() if len(word) > width]  # a path, where lines end
        for word in new:
            assert _SHORTENED in word or any(word in whole for whole in long), (width, word)
        longest = max(narrow.splitlines(), key=len)
        assert len(longest.rstrip()) <= width, longest
    piped = PlainConsole(width=WIDTHS[0], file=io.StringIO())
    sentences = {line for line in wide.splitlines() if line.endswith(".")}
    text = _printed(show, piped)
    assert figures(text) == figures(wide)
    assert sentences <= set(text.splitlines())


def _printed(show: Show, console: Console) -> str:
    show(console)
    stream = console.file
    assert isinstance(stream, io.StringIO)
    return stream.getvalue()
