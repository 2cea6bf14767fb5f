"""Indexes built, rebuilt and dropped CONCURRENTLY: the catalog says what is there, whatever happened to the answer.

Locks taken: SHARE UPDATE EXCLUSIVE on the table, which lets every read and write through. A build waits for every
transaction of the database that is older than its passes, so lock_timeout is as long as statement_timeout here.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from importlib.resources import files

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow, class_row

from tasks.database.connection import session_limits
from tasks.planning.names import TableName, is_rebuild_of
from tasks.planning.plan import BuildIndex, Reindex

Connection = psycopg.Connection[TupleRow]

DROP_TIMEOUT_MS = 600_000
"""Ten minutes for dropping an index: it waits for the transactions that may still use it."""
REMAINS_TIMEOUT_MS = 2_000
"""For what a failed build leaves. The drop waits for whatever the build waited for; the next build tries again."""
_STATE = (files("tasks.database") / "sql" / "index_state.sql").read_bytes()
_REMAINS = (files("tasks.database") / "sql" / "reindex_remains.sql").read_bytes()
_UNTOLD = re.compile(r"\b(CONCURRENTLY|IF NOT EXISTS|USING btree)\b|[\s\"()]+", re.IGNORECASE)


class IndexConflict(Exception):
    """The name is taken by an index of another table or another definition; or the build left no valid index."""


@dataclass(frozen=True)
class IndexState:
    valid: bool
    same_table: bool
    definition: str


def index_state(connection: Connection, table: TableName, index: str) -> IndexState | None:
    """Return what the catalog says of an index in the table's schema, None when there is none."""
    with connection.cursor(row_factory=class_row(IndexState)) as cursor:
        return cursor.execute(_STATE, {"schema": table.schema, "table": table.name, "index": index}).fetchone()


def build_index(connection: Connection, action: BuildIndex, *, statement_timeout_ms: int) -> None:
    """Build the index unless a valid one is there; drop an invalid one first, and one whose build failed.

    ``connection`` is in autocommit. Raises IndexConflict, and psycopg's errors of the build.
    """
    state = index_state(connection, action.table, action.index)
    if state is not None:
        _refuse_other(state, action)
        if state.valid:
            return
        drop_index(connection, action.table, action.index)
    session_limits(connection, lock_timeout_ms=statement_timeout_ms, statement_timeout_ms=statement_timeout_ms)
    try:
        connection.execute(action.statement.encode())
    except psycopg.Error:
        # What a failed build leaves slows every write down and serves no read.
        with contextlib.suppress(psycopg.Error):
            if (left := index_state(connection, action.table, action.index)) is not None and not left.valid:
                drop_index(connection, action.table, action.index, timeout_ms=REMAINS_TIMEOUT_MS)
        raise
    built = index_state(connection, action.table, action.index)
    if built is None or not built.valid:
        raise IndexConflict(f"the index {action.index} is not valid after its build")


def reindex(connection: Connection, action: Reindex, *, statement_timeout_ms: int) -> None:
    """Rebuild the index, after dropping what an earlier attempt left; a failed attempt leaves nothing either.

    ``connection`` is in autocommit. Raises IndexConflict, and psycopg's errors of the build.
    """
    _clear(connection, action, timeout_ms=DROP_TIMEOUT_MS)
    session_limits(connection, lock_timeout_ms=statement_timeout_ms, statement_timeout_ms=statement_timeout_ms)
    name = sql.Identifier(action.table.schema, action.index)
    try:
        connection.execute(sql.SQL("REINDEX INDEX CONCURRENTLY {}").format(name))
    except psycopg.Error:
        with contextlib.suppress(psycopg.Error):
            _clear(connection, action, timeout_ms=REMAINS_TIMEOUT_MS)
        raise
    state = index_state(connection, action.table, action.index)
    if state is None or not state.valid:
        raise IndexConflict(f"the index {action.index} is not valid after its rebuild")


def _clear(connection: Connection, action: Reindex, *, timeout_ms: int) -> None:
    found = connection.execute(_REMAINS, {"schema": action.table.schema, "table": action.table.name}).fetchall()
    for (name,) in found:
        if is_rebuild_of(str(name), action.index):
            drop_index(connection, action.table, str(name), timeout_ms=timeout_ms)


def drop_index(connection: Connection, table: TableName, index: str, *, timeout_ms: int = DROP_TIMEOUT_MS) -> None:
    """Drop an index CONCURRENTLY if it is there."""
    session_limits(connection, lock_timeout_ms=timeout_ms, statement_timeout_ms=timeout_ms)
    name = sql.Identifier(table.schema, index)
    connection.execute(sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(name))


def _refuse_other(state: IndexState, action: BuildIndex) -> None:
    if not state.same_table:
        raise IndexConflict(f"an index named {action.index} is on another table than {action.table}")
    if state.valid and _told(state.definition, action.table) != _told(action.statement, action.table):
        raise IndexConflict(f"an index named {action.index} is there with another definition: {state.definition}")


def _told(definition: str, table: TableName) -> str:
    """Return what a definition tells, without CONCURRENTLY, defaults, quoting and the optional schema."""
    text = _UNTOLD.sub(" ", definition.rstrip("; \n")).lower()
    return " ".join(text.replace(f" {table.schema.lower()}.", " ").split())
