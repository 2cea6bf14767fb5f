"""What may leave a task: Lockstep's own messages. A server's message may quote a row, and Prefect keeps tracebacks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from tasks.planning.errors import LockstepError, MigrationError

PASSWORD = re.compile(r"(?i)(://[^\s:/@]*:)[^\s@]+(@)|(password\s*=\s*)\S+")


@contextmanager
def discreet() -> Iterator[None]:
    """Let errors out without the server's message behind them, and turn a bare one into a `MigrationError`."""
    try:
        yield
    except LockstepError as error:
        raise error from None
    except psycopg.Error as error:
        raise MigrationError(
            f"The database refused a statement: {type(error).__name__} (SQLSTATE {error.sqlstate or 'none'}).",
            remedy="Run the same command again: it goes on from what the ledger holds.",
        ) from None


def without_passwords(text: str) -> str:
    """Return a text with the passwords of URLs and connection strings blotted out."""
    return PASSWORD.sub(lambda found: f"{found[1] or found[3]}***{found[2] or ''}", text)
