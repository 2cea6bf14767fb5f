"""What a person sees of the command line: errors in three lines, a log for the rest, one JSON document on request."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console

from flows.logbook import log_file, trace
from tasks.planning.errors import LockstepError

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_WAITING = 3


def out() -> Console:
    """Return the console of results. Made anew each time, because a test exchanges ``sys.stdout``."""
    return Console(file=sys.stdout, highlight=False, soft_wrap=True)


def err() -> Console:
    """Return the console of everything that is not the result."""
    return Console(file=sys.stderr, highlight=False, soft_wrap=True)


def note(sentence: str) -> None:
    """Tell a person something that is not the result."""
    err().print(sentence, markup=False)


def interactive() -> bool:
    """Whether a person sits at both ends."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def wait_for_enter(sentence: str) -> None:
    err().print(sentence)
    sys.stdin.readline()


def print_json(document: Any) -> None:
    """Print one JSON document on standard output."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, default=str) + "\n")


def guarded(command: Callable[[], int]) -> int:
    """Run a command and return its exit code; whatever it raises becomes a few lines on standard error."""
    try:
        return command()
    except LockstepError as error:
        show_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        err().print("Interrupted. What was committed is in the ledger; the same command goes on from there.")
        return EXIT_FAILED
    except Exception as error:  # noqa: BLE001 - the outermost frame: a traceback belongs into the log
        show_unexpected(error)
        return EXIT_FAILED


def show_error(error: LockstepError) -> None:
    """Print what happened, whether the data is safe, and what to do now: one line each."""
    console = err()
    style = "yellow" if error.exit_code == EXIT_WAITING else "bold red"
    console.print(error.what, style=style, markup=False)
    if error.safety:
        console.print(error.safety, markup=False)
    if error.remedy:
        console.print(error.remedy, style="bold", markup=False)


def show_unexpected(error: Exception) -> None:
    """Print that something failed that nobody foresaw, and where its traceback is."""
    path = log_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as log:
            log.write("".join(trace(error)))
        where = f"The traceback is in {path}; please report it."
    except OSError:
        where = "The traceback could not be written; run with PYTHONFAULTHANDLER=1 and report it."
    show_error(
        LockstepError(
            f"Lockstep failed unexpectedly: {type(error).__name__}.",
            safety="The ledger holds what was committed; `lockstep status` says where the migration is.",
            remedy=where,
        )
    )
