"""The catalogs of both stages of a column that keeps its name: the server renames it, with all that names it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from tasks.database.catalog import snapshot
from tasks.database.clone import SchemaClone
from tasks.database.connection import connect, limits
from tasks.database.trace import LOCK_TIMEOUT_MS, STATEMENT_TIMEOUT_MS, run_statement
from tasks.planning.catalog import Catalog
from tasks.planning.meaning import settled
from tasks.planning.names import TableName
from tasks.planning.statements import Statement
from tasks.planning.strategies.expand_contract.stages import Moved, Shapes, Stages

Connection = psycopg.Connection[TupleRow]


def stages(
    clone: SchemaClone,
    parsed: Sequence[Statement],
    settings: Sequence[tuple[str, str]],
    before: Catalog,
    after: Catalog,
    moved: Mapping[TableName, tuple[Moved, ...]],
) -> Stages:
    """Return the catalogs of both stages of a change, whose own catalogs are ``before`` and ``after``.

    Raises `SpecError` where a statement of the change fails, as when it was first run.
    """
    if not moved:
        return Stages.alike(before, after)
    with connect(clone.fresh(), role="oracle", settings=settings) as connection:
        with connection.transaction(force_rollback=True):
            limits(connection, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=STATEMENT_TIMEOUT_MS)
            for rename in _renames(moved, "hidden"):
                connection.execute(rename)
            hidden = snapshot(connection)
        # The clone is thrown away: a value of an enum has to be committed before the next statement can name it.
        for number, statement in enumerate(parsed, start=1):
            with connection.transaction():
                limits(connection, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=STATEMENT_TIMEOUT_MS)
                run_statement(connection, statement, number)
        with connection.transaction(force_rollback=True):
            limits(connection, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=STATEMENT_TIMEOUT_MS)
            for rename in _renames(moved, "coming"):
                connection.execute(rename)
            coming = settled(before, snapshot(connection))
    return Stages(
        expanded=Shapes("expanded", before, coming),
        switched=Shapes("switched", _sized(hidden, before), after),
        moved=moved,
    )


def _renames(moved: Mapping[TableName, tuple[Moved, ...]], to: str) -> Iterator[sql.Composed]:
    for table, columns in moved.items():
        for column in columns:
            yield sql.SQL("ALTER TABLE {} RENAME COLUMN {} TO {}").format(
                table.identifier, sql.Identifier(column.name), sql.Identifier(getattr(column, to))
            )


def _sized(catalog: Catalog, sizes: Catalog) -> Catalog:
    known = {table.oid: table for table in sizes.tables}
    tables = (
        table.model_copy(update={field: getattr(known[table.oid], field) for field in ("rows", "bytes", "toast_bytes")})
        if table.oid in known
        else table
        for table in catalog.tables
    )
    return catalog.model_copy(update={"tables": tuple(tables)})
