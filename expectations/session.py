"""The gate's session: reads only, never waits long for a lock, and tells nobody what is in a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import psycopg
from psycopg.rows import TupleRow

from tasks.database.connection import Target, connect, session_limits

LOCK_TIMEOUT_MS = 2_000
"""A gate reads; behind a waiting ACCESS EXCLUSIVE lock it gives way rather than lengthen the queue."""

STATEMENT_TIMEOUT_MS = 3_600_000
"""For one check: a parity over some hundred million rows takes minutes, a forgotten one must not take days."""

GATE_SETTINGS = (
    ("default_transaction_read_only", "on"),
    # A policy that hides rows from this role would hide failing ones: rather an error than half a look.
    ("row_security", "off"),
    # What a user's function says by RAISE NOTICE may carry values, and drivers log notices.
    ("client_min_messages", "error"),
    # Compiling these once-only statements takes longer than it saves, up to some million rows.
    ("jit", "off"),
)


class DiscreetCursor(psycopg.Cursor[TupleRow]):
    """A cursor whose errors name the SQLSTATE and its condition, never the message: that may quote a value."""

    def execute(self, *args: Any, **kwargs: Any) -> Self:
        try:
            return super().execute(*args, **kwargs)
        except psycopg.Error as error:
            raise type(error)(condition(error)) from None


def condition(error: psycopg.Error) -> str:
    """Return the SQLSTATE and the name of its condition, e.g. ``22012 DivisionByZero``."""
    return f"{error.sqlstate or 'no SQLSTATE'} {type(error).__name__}"


def open_session(target: Target, settings: Sequence[tuple[str, str]]) -> psycopg.Connection[TupleRow]:
    """Connect as ``lockstep:gate`` with the plan's settings and the gate's own. Raises CannotConnect."""
    connection = connect(target, role="gate", settings=(*settings, *GATE_SETTINGS))
    try:
        session_limits(connection, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=STATEMENT_TIMEOUT_MS)
        connection.cursor_factory = DiscreetCursor
        # From here on every check is a transaction of its own.
        connection.autocommit = False
    except BaseException:
        connection.close()
        raise
    return connection
