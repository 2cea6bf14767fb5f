"""Reads Flyway's history table, and judges a folder by it as Flyway would. Writes nothing: a plan's step does."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from tasks.database.connection import limits
from tasks.database.locks import Blocker, advisory_holders, table_holders
from tasks.database.queries import queries
from tasks.planning.errors import HistoryChanged, LockNotAcquired, MissingPrivilege, SpecError
from tasks.planning.flyway.folder import Folder
from tasks.planning.flyway.history import Applied, Judgement, judge
from tasks.planning.flyway.rows import is_rows_step, later_rows, lock_key
from tasks.planning.flyway.settings import Settings
from tasks.planning.flyway.versions import parse_version
from tasks.planning.names import TableName
from tasks.planning.plan import Plan, Step

LOCK_TIMEOUT_MS = 2_000
STATEMENT_TIMEOUT_MS = 30_000

_SQL = queries("flyway_history")
_COLUMNS = ("installed_rank", "version", "description", "type", "script", "checksum", "success")


def judge_folder(connection: psycopg.Connection[TupleRow], folder: Folder, settings: Settings) -> Judgement:
    """Return the state of every migration in this database; without a history table, nothing is applied yet.

    Raises what `read_history` and `tasks.planning.flyway.history.judge` raise.
    """
    return judge(folder, read_history(connection, settings) or (), settings)


def read_history(connection: psycopg.Connection[TupleRow], settings: Settings) -> tuple[Applied, ...] | None:
    """Return the rows of the history table by their rank, None where there is no such table.

    The connection is in no transaction. Raises `MissingPrivilege`; `LockNotAcquired` when somebody holds the table
    locked; `SpecError` for a table that is not Flyway's, and where no schema is given and only others have one;
    `Unsupported` for migrations of the paid editions.
    """
    with connection.transaction():
        connection.execute("SET TRANSACTION READ ONLY")
        limits(connection, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=STATEMENT_TIMEOUT_MS)
        place = {"schema": settings.default_schema, "table": settings.table}
        found = connection.execute(_SQL["table"], place).fetchone()
        if found is None:
            if settings.default_schema is None:
                _refuse_another(connection, settings.table)
            return None
        schema, readable, columns = found
        name = f"{schema}.{settings.table}"
        lacking = [column for column in _COLUMNS if column not in columns]
        if lacking:
            raise SpecError(
                f"The table {name} is not a history of Flyway's: it has no column {lacking[0]}.",
                remedy="Name the table that flyway.table and flyway.defaultSchema name.",
            )
        if not readable:
            raise _may_not_read(connection, schema, settings.table)
        statement = sql.SQL("SELECT {} FROM {} ORDER BY installed_rank").format(
            sql.SQL(", ").join(map(sql.Identifier, _COLUMNS)), sql.Identifier(schema, settings.table)
        )
        rows = _rows(connection, statement, TableName(schema, settings.table))
    return tuple(_applied(row, name) for row in rows)


def require_history(connection: psycopg.Connection[TupleRow], plan: Plan, done: Collection[str]) -> None:
    """Refuse to go on where Flyway has run versions since the plan was made, until the plan's own rows are written.

    ``done``: the ids of the steps that are done. Any other plan than that of a Flyway folder passes. Raises
    `HistoryChanged`, and `LockNotAcquired` when somebody holds the table locked.
    """
    history = plan.flyway
    if history is None or any(is_rows_step(step) for step in done):
        return
    try:
        with connection.transaction():
            limits(connection, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=STATEMENT_TIMEOUT_MS)
            rows = _rows(connection, later_rows(history).encode(), history.table)
    except psycopg.errors.UndefinedTable:
        raise HistoryChanged(
            f"Flyway's history, the table {history.table}, is gone.",
            scripts=(),
            remedy=f"Put it back as it was and run again, or go back:  lockstep rollback {plan.name}",
        ) from None
    if rows:
        scripts = tuple(str(script) for _, _, script, _ in rows)
        raise HistoryChanged(
            f"Flyway has run {', '.join(scripts)} since {plan.name} was planned (in {history.table}). Where that is a "
            "file of this migration, a version of the application that has it was started too early.",
            scripts=scripts,
            remedy=f"Take that version out of service. Then go back, and plan again:  lockstep rollback {plan.name}",
        )


def lock_holders(connection: psycopg.Connection[TupleRow], plan: Plan, step: Step) -> tuple[Blocker, ...]:
    """Return the sessions with Flyway's lock, where a step asks for it; the oldest transaction first."""
    if plan.flyway is None or not is_rows_step(step.id):
        return ()
    try:
        return advisory_holders(connection, lock_key(plan.flyway.table))
    except psycopg.Error:
        return ()  # names are a courtesy


def busy(what: str, table: TableName, holders: Sequence[Blocker], *, tries: int, seconds: float) -> LockNotAcquired:
    """Return the error for Flyway's lock, which others held through all tries; ``what`` names the step."""
    named = tuple(str(holder) for holder in holders)
    return LockNotAcquired(
        f"{what}: Flyway's lock on {table} was not granted in {tries} tries over {seconds:.0f} seconds. It is held by "
        f"{'; '.join(named)}.",
        table=str(table),
        blockers=named,
        remedy="A version of the application that starts, or a Flyway on its own, migrates there: wait until it has "
        f"ended. Where no such process is left, end its session:  SELECT pg_terminate_backend({holders[0].pid})  "
        "Then run again: it continues here.",
    )


def _rows(
    connection: psycopg.Connection[TupleRow], statement: bytes | sql.Composed, table: TableName
) -> list[TupleRow]:
    """Return a query's rows, in a transaction of its own. Raises `LockNotAcquired`, which names who has it locked."""
    try:
        with connection.transaction():
            return connection.execute(statement).fetchall()
    except psycopg.errors.LockNotAvailable:
        blockers = tuple(map(str, table_holders(connection, table)))
        raise LockNotAcquired(
            f"The table {table} is locked by another session: {'; '.join(blockers) or 'it has ended by now'}.",
            table=str(table),
            blockers=blockers,
            remedy="Look at it again when that session is done.",
        ) from None


def writable_history(connection: psycopg.Connection[TupleRow], settings: Settings) -> TableName:
    """Return the history table, after a look at whether a migration may write its rows into it.

    Raises `SpecError` where there is none, or not where the files' own names are looked up; `MissingPrivilege`.
    """
    place = {"schema": settings.default_schema, "table": settings.table}
    found = connection.execute(_SQL["table"], place).fetchone()
    if found is None:
        raise SpecError(
            f"The database has no table {settings.table}: Flyway has never run there.",
            remedy="Let Flyway begin its history: baseline, where the tables are there already; else migrate, up to "
            "the version that the running application has.",
        )
    table = TableName(found[0], settings.table)
    row = connection.execute(_SQL["writable"], {"schema": table.schema, "table": table.name}).fetchone()
    may_write, plain, first = row or (False, False, False)
    if not plain:
        raise SpecError(f"{table} is no plain table.", remedy="Name the table that Flyway itself writes.")
    if not first:
        raise SpecError(
            f"Flyway looks up the names in its files in the schema {table.schema} first, and this connection does not.",
            remedy="Put that schema first in the connection's search_path, e.g. with "
            "?options=-csearch_path%3DSCHEMA in its URL.",
        )
    if not may_write:
        grant = sql.SQL("GRANT INSERT, DELETE ON {} TO {};").format(
            table.identifier, sql.Identifier(connection.info.user)
        )
        raise MissingPrivilege(
            f"The role {connection.info.user!r} may not write Flyway's history, the table {table}.",
            grant=grant.as_string(),
        )
    return table


def _refuse_another(connection: psycopg.Connection[TupleRow], table: str) -> None:
    """Refuse to take a database for a new one where only a schema that is not the first has a history."""
    schemas = [schema for (schema,) in connection.execute(_SQL["elsewhere"], {"table": table}).fetchall()]
    if schemas:
        raise SpecError(
            f"The first schema of the search_path has no table {table}, but this one has: {', '.join(schemas)}.",
            remedy="Put the schema that Flyway uses (flyway.defaultSchema, or the first of flyway.schemas) first in "
            "the connection's search_path, e.g. with ?options=-csearch_path%3DSCHEMA in its URL.",
        )


def _applied(row: TupleRow, table: str) -> Applied:
    rank, written, description, kind, script, recorded, success = row
    version = None if written is None else parse_version(written)
    if written is not None and version is None:
        raise SpecError(
            f"The table {table} has a migration whose version {written!r} is not one.",
            remedy="Flyway fails here too: mend the row.",
        )
    return Applied(rank, version, description, kind, script, recorded, success)


def _may_not_read(connection: psycopg.Connection[TupleRow], schema: str, table: str) -> MissingPrivilege:
    user = connection.info.user
    grant = sql.SQL("GRANT USAGE ON SCHEMA {0} TO {1}; GRANT SELECT ON {0}.{2} TO {1};").format(
        sql.Identifier(schema), sql.Identifier(user), sql.Identifier(table)
    )
    return MissingPrivilege(
        f"The role {user!r} may not read Flyway's history, the table {schema}.{table}.", grant=grant.as_string()
    )
