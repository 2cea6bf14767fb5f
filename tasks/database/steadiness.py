"""What differs from one evaluation to the next, as the server sees it: defaults that rewrite, volatile conditions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from tasks.database.clone import SchemaClone
from tasks.database.connection import connect, limits
from tasks.database.queries import queries
from tasks.planning.catalog import Catalog, Column
from tasks.planning.errors import Unsupported
from tasks.planning.names import TableName, verbatim
from tasks.planning.plan import RowChange

Connection = psycopg.Connection[TupleRow]

LOCK_TIMEOUT_MS = 5_000
STATEMENT_TIMEOUT_MS = 30_000
_SQL = queries("steadiness")


def volatile_defaults(
    clone: SchemaClone, before: Catalog, after: Catalog, settings: Sequence[tuple[str, str]]
) -> frozenset[tuple[TableName, str]]:
    """Return the added columns whose DEFAULT would rewrite the table: each existing row needs a value of its own.

    Asked of the server, by adding each to an empty clone and looking whether the table got another file.
    """
    candidates = tuple(_with_computed_default(before, after))
    if not candidates:
        return frozenset()
    with connect(clone.fresh(), role="oracle", settings=settings) as connection:
        return frozenset((table, column.name) for table, column in candidates if _rewrites(connection, table, column))


def _with_computed_default(before: Catalog, after: Catalog) -> Iterator[tuple[TableName, Column]]:
    later = {table.oid: table for table in after.tables}
    for table in before.tables:
        numbers = {column.attnum for column in table.columns}
        for column in later[table.oid].columns if table.oid in later else ():
            plain = column.default is not None and not column.generated and not column.identity
            if plain and column.attnum not in numbers and "(" in (column.default or ""):
                yield table.name, column


def _rewrites(connection: Connection, table: TableName, column: Column) -> bool:
    add = sql.SQL("ALTER TABLE {} ADD COLUMN {} {} DEFAULT {}").format(
        table.identifier,
        sql.Identifier(f"lockstep_{column.attnum}"),
        verbatim(column.type),
        verbatim(column.default or ""),
    )
    with connection.transaction(force_rollback=True):
        limits(connection, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=STATEMENT_TIMEOUT_MS)
        first = _file(connection, table)
        try:
            connection.execute(add)
        except psycopg.Error:
            # It needs something that the change itself creates: the proof of the plan will see what it does.
            return False
        return _file(connection, table) != first


def _file(connection: Connection, table: TableName) -> object:
    row = connection.execute(_SQL["file"], {"table": table.identifier.as_string(connection)}).fetchone()
    return row and row[0]


def require_steady_condition(connection: Connection, action: RowChange) -> None:
    """Refuse a condition that may change its mind about a row: rows are judged in batches, some of them again.

    The connection is to a clone with the expanded table; nothing remains there. Raises `Unsupported`.
    """
    view = sql.SQL("CREATE TEMPORARY VIEW lockstep_condition AS SELECT ({}) AS due FROM {} AS {}").format(
        verbatim(action.due), action.table.identifier, sql.Identifier(action.alias)
    )
    with connection.transaction(force_rollback=True):
        connection.execute(view)
        volatile = [row[0] for row in connection.execute(_SQL["volatile_functions"]).fetchall()]
    if volatile:
        raise Unsupported(
            f"the condition of a data change of {action.table}, because {volatile[0]} is volatile: it could say one "
            "thing of a row now and another in the next batch",
            instead="Write a condition over the rows, with a fixed value where a moment or a random number is meant.",
        )
