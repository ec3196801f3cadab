"""Consoles that show what is printed and obey none of it.

Names of tensors, files and devices may hold anything, messages of libraries quote them, and a
terminal obeys what it finds in them. So nothing that is printed keeps a character that is not
seen, whoever wrote it.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from mnv4_deploy.text import visible


class PlainConsole(Console):
    """A console whose texts, also in tables, are ``visible``; its own colours stay.

    Prose is broken between words where a terminal ends, and not at all on its way to a program.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(emoji=False, **options)
        self.soft_wrap = not self.is_terminal

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **options)
