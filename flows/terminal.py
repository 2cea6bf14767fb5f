"""A run as a terminal shows it: sentences, and a bar for long steps; plain lines where nobody watches."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from flows import console
from tasks.database.progress import Progress as RowsDone
from tasks.narration import listening
from tasks.phase import describe

PLAIN_SECONDS = 5.0
"""How often a log that nobody watches gets a line of progress."""


class Bars:
    """Sentences above, bars of long steps below them."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def say(self, sentence: str) -> None:
        self._bars.console.print(sentence, markup=False, highlight=False)

    def progress(self, progress: RowsDone) -> None:
        if progress.step not in self._tasks:
            self._tasks[progress.step] = self._bars.add_task(progress.title)
        title = f"{progress.title} (throttled)" if progress.throttled else progress.title
        self._bars.update(
            self._tasks[progress.step], description=title, completed=progress.rows_done, total=progress.rows_total
        )


class PlainLines:
    """One line a sentence, and a line of progress every few seconds."""

    def __init__(self) -> None:
        self._told = time.monotonic()

    def say(self, sentence: str) -> None:
        console.err().print(sentence, markup=False, highlight=False)

    def progress(self, progress: RowsDone) -> None:
        if time.monotonic() - self._told >= PLAIN_SECONDS:
            self._told = time.monotonic()
            self.say(f"  {progress.title}: {describe(progress)}")


@contextmanager
def shown() -> Iterator[None]:
    """Show on standard error what happens in this process, for the length of a block."""
    terminal = console.err()
    if not terminal.is_terminal:
        with listening(PlainLines()):
            yield
        return
    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=terminal, transient=True) as bars, listening(Bars(bars)):
        yield
