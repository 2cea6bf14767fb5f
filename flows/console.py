"""What a person sees of the command line: errors in three lines, a log for the rest, one JSON document on request."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs
from rich.console import Console

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


def log_file() -> Path:
    """Return the file that tracebacks and Prefect's warnings go to."""
    return platformdirs.user_log_path("lockstep") / "lockstep.log"


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


def trace(error: BaseException | None) -> list[str]:
    """Return an exception's frames and its causes', without the messages of the server: they may quote a row."""
    if error is None:
        return []
    code = getattr(error, "sqlstate", None)
    message = f"{type(error).__name__}: " + (f"SQLSTATE {code}" if hasattr(error, "sqlstate") else str(error))
    below = trace(error.__cause__ or (None if error.__suppress_context__ else error.__context__))
    return [*below, *traceback.format_tb(error.__traceback__), f"{message}\n"]


@contextmanager
def kept_log() -> Iterator[None]:
    """For the length of a block, send warnings and errors of every library to the log file, tracebacks included."""
    path = log_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, delay=True)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
