"""What happens, told to whoever listens: the Prefect run's log, and a terminal if there is one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

from tasks.database.progress import Progress
from tasks.secrecy import without_passwords


class Listener(Protocol):
    """A terminal, or a test: gets every sentence, and the progress of long steps."""

    def say(self, sentence: str) -> None: ...

    def progress(self, progress: Progress) -> None: ...


_listeners: list[Listener] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell this listener what happens in this process, for the length of a block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def say(sentence: str) -> None:
    """Log a sentence in the Prefect run, and tell the listeners. Names and counts only: no row's value."""
    sentence = without_passwords(sentence)
    log(sentence)
    for listener in _listeners:
        listener.say(sentence)


def log(sentence: str) -> None:
    """Log a sentence in the Prefect run only: for a result, which the command line prints itself."""
    with contextlib.suppress(MissingContextError):  # called outside a run
        get_run_logger().info(without_passwords(sentence))


def show_progress(progress: Progress) -> None:
    """Tell the listeners how far a long step is; nothing where none of its rows was left to do."""
    if not progress.rows_per_second:
        return
    for listener in _listeners:
        listener.progress(progress)
