"""Running the user's change on a clone, statement by statement, to see what it does: never on a live database."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from psycopg.rows import TupleRow

from tasks.database.catalog import snapshot
from tasks.database.connection import limits
from tasks.planning.catalog import Catalog
from tasks.planning.errors import SpecError
from tasks.planning.statements import Statement

LOCK_TIMEOUT_MS = 5_000
STATEMENT_TIMEOUT_MS = 60_000
"""On an empty clone nothing waits and nothing is long: these only bound what should not happen."""


def apply_change(
    conn: psycopg.Connection[TupleRow], statements: Sequence[Statement], settings: Sequence[tuple[str, str]] = ()
) -> tuple[Catalog, Catalog]:
    """Return the catalogs before and after the statements, which are run in one transaction and rolled back.

    ``conn`` is an idle connection to a clone; ``settings`` (search_path, TimeZone …) hold for this transaction.
    CONCURRENTLY is left out. Raises `SpecError` with the statement's number and line and the server's message.
    """
    with conn.transaction(force_rollback=True):
        limits(conn, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=STATEMENT_TIMEOUT_MS)
        for name, value in settings:
            conn.execute("SELECT set_config(%s, %s, true)", (name, value))
        before = snapshot(conn)
        for number, statement in enumerate(statements, start=1):
            run_statement(conn, statement, number)
        # Constraints and triggers that wait for the commit would otherwise speak up only when it is for real.
        conn.execute("SET CONSTRAINTS ALL IMMEDIATE")
        return before, snapshot(conn)


def run_statement(conn: psycopg.Connection[TupleRow], statement: Statement, number: int) -> None:
    """Run one statement of the change in the open transaction. Raises `SpecError` where the server refuses it."""
    try:
        conn.execute(statement.transactional_sql.encode())
    except psycopg.Error as error:
        raise SpecError(
            f"Statement {number} of the change (line {_line(statement, error)}) fails on a clone of the schema: "
            f"{_reason(error)}\n  {_shortened(statement.sql)}",
            remedy=error.diag.message_hint or "Correct the change: it has to run on the live schema as it is now.",
        ) from None


def _line(statement: Statement, error: psycopg.Error) -> int:
    """Return the line of the change's source that the server points to, else the statement's first."""
    position = error.diag.statement_position
    if position is None or statement.concurrent:
        return statement.line
    return statement.line + statement.sql.count("\n", 0, int(position) - 1)


def _reason(error: psycopg.Error) -> str:
    """Return the server's message and detail. The clone has no rows, so no value of a row can be in them."""
    primary = error.diag.message_primary or str(error).strip() or type(error).__name__
    detail = f" ({error.diag.message_detail})" if error.diag.message_detail else ""
    return f"{primary}{detail} [{error.sqlstate or 'no SQLSTATE'}]"


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else f"{line[:199]}…"
