"""The log file of the command line: tracebacks of what nobody foresaw, and other libraries' warnings."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs


def log_file() -> Path:
    """Return the file that tracebacks and Prefect's warnings go to."""
    return platformdirs.user_log_path("lockstep") / "lockstep.log"


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
