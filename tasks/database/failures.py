"""What an SQL error means for a step: a lost connection, a lock to wait for, a row that cannot be brought over.

No description carries the server's DETAIL, nor a message of the data classes: both may quote values of a row.
"""

from __future__ import annotations

import psycopg

SESSION_ENDED = frozenset({"57P01", "57P02", "57P03", "57P05", "25P03"})
"""admin_shutdown, crash_shutdown, cannot_connect_now, idle_session_timeout, idle_in_transaction_session_timeout."""
LOCK_REFUSED = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)
"""55P03 and 40P01: the only errors after which a transaction is tried again as it is."""
ROW_CLASSES = frozenset({"22", "23", "38", "39", "P0"})
"""Classes of SQLSTATE that one row's values cause: data, integrity, routines, PL/pgSQL's RAISE."""
SAFE_MESSAGE_CLASSES = frozenset({"0A", "42", "53", "55"})
"""Classes whose message names objects and never values."""


def connection_lost(error: BaseException) -> bool:
    """Say whether the session is gone, so that only the ledger knows whether its transaction was committed."""
    if not isinstance(error, psycopg.Error):
        return False
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError)
    # By SQLSTATE, because 25P03 is no OperationalError.
    return error.sqlstate in SESSION_ENDED or error.sqlstate.startswith("08")


def caused_by_row(error: psycopg.Error) -> bool:
    """Say whether the values of some row caused the error, so that the other rows can go on."""
    return (error.sqlstate or "")[:2] in ROW_CLASSES


def described(error: psycopg.Error) -> str:
    """Return the error without any value of a row: condition, SQLSTATE and the names of the objects concerned."""
    state = error.sqlstate or "no SQLSTATE"
    diagnosis = error.diag
    named = (
        ("constraint", diagnosis.constraint_name),
        ("table", diagnosis.table_name),
        ("column", diagnosis.column_name),
        ("type", diagnosis.datatype_name),
    )
    objects = ", ".join(f"{kind} {name}" for kind, name in named if name)
    text = f"{type(error).__name__} ({state})"
    if objects:
        text += f", {objects}"
    if state[:2] in SAFE_MESSAGE_CLASSES and diagnosis.message_primary:
        text += f": {diagnosis.message_primary}"
    return text
