"""What a long command tells a person while it works: stages on stderr, nothing off a terminal."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator

from mnv4_deploy.streams import LOG
from mnv4_deploy.text import clean


class Progress:
    """Shows the running stage and keeps each stage's wall time in ``seconds_by_stage``."""

    def __init__(self, *, show: bool | None = None, notes: bool = True) -> None:
        from mnv4_deploy.console import PlainConsole

        # A descriptor of our own: converters are kept off the usual one while they run.
        stream = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace")
        self._console = PlainConsole(file=stream)
        self._show = self._console.is_terminal if show is None else show
        self._notes = notes
        self.seconds_by_stage: dict[str, float] = {}

    def note(self, text: str) -> None:
        """Something the user should know, on stderr also where nobody watches."""
        LOG.info("note: %s", clean(text))
        if not self._notes:
            return
        with contextlib.suppress(OSError):  # a full disk behind it: the results matter more
            self._console.print(f"note: {text}", markup=False)

    @contextlib.contextmanager
    def stage(self, title: str) -> Iterator[None]:
        from rich.markup import escape

        shown = escape(clean(title))
        started = time.perf_counter()
        with self._spinner(f"{shown} …"):
            yield
        seconds = time.perf_counter() - started
        self.seconds_by_stage[title] = self.seconds_by_stage.get(title, 0.0) + seconds
        LOG.info("%s: %.1f s", clean(title), seconds)
        if self._show:
            self._console.print(f"[green]✓[/] {shown} [dim]{seconds:.1f} s[/]")

    def _spinner(self, text: str) -> contextlib.AbstractContextManager[object]:
        if not self._show:
            return contextlib.nullcontext()
        from rich.live import Live
        from rich.spinner import Spinner

        return Live(
            Spinner("dots", text, style="status.spinner"),
            console=self._console,
            transient=True,
            # rich would show what libraries say, also where it is kept quiet.
            redirect_stdout=False,
            redirect_stderr=False,
        )

    @contextlib.contextmanager
    def images(self, total: int, *, done: int = 0) -> Iterator[Callable[[int], None]]:
        """Show how many of ``total`` images are done, their rate and the time left.

        ``done`` are from an earlier run. Call what is yielded with the number just finished.
        """
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bar

        bar = Bar(
            TextColumn("images"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._show,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        started = time.perf_counter()
        finished = 0
        with bar:
            task = bar.add_task("images", total=total, completed=done, rate="")

            def advance(count: int) -> None:
                nonlocal finished
                finished += count
                rate = finished / (time.perf_counter() - started)
                bar.update(task, advance=count, rate=f"{rate:.1f} images/s")

            yield advance
