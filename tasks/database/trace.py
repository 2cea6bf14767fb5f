"""Running the user's change on a clone, statement by statement, to see what it does: never on a live database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import psycopg
from psycopg.rows import TupleRow

from tasks.database.catalog import snapshot
from tasks.database.connection import limits
from tasks.planning.catalog import Catalog
from tasks.planning.errors import SpecError, Unsupported
from tasks.planning.meaning import changes
from tasks.planning.names import TableName
from tasks.planning.objects.effects import Effect, Sorter
from tasks.planning.plan import LOCK_ORDER, LockMode, LockUse
from tasks.planning.server_wide import reaching, why_not_run
from tasks.planning.statements import Statement, search_path_of

LOCK_TIMEOUT_MS = 5_000
STATEMENT_TIMEOUT_MS = 60_000
"""On an empty clone nothing waits and nothing is long: these only bound what should not happen."""


OWN_LOCKS = (files("tasks.database") / "sql" / "own_locks.sql").read_bytes()


@dataclass(frozen=True)
class Trace:
    """What the change did: the catalogs around it, and around each statement that is run as it is written."""

    before: Catalog
    after: Catalog
    effects: tuple[Effect, ...]


def trace_change(
    conn: psycopg.Connection[TupleRow], statements: Sequence[Statement], settings: Sequence[tuple[str, str]] = ()
) -> Trace:
    """Run the statements on a clone, each in a transaction of its own, and return what they did.

    ``conn`` is an idle connection to a clone that is thrown away afterwards: the statements are committed, since a
    value that is added to an enum cannot be used before. ``settings`` (search_path, TimeZone …) hold for each of
    them. CONCURRENTLY is left out.

    Raises:
        SpecError: a statement fails; with its number and line and the server's message.
        Unsupported: a statement that is neither a room's nor run as it is written.
    """
    sorter = Sorter(search_path_of(settings))
    before = now = snapshot(conn)
    effects: list[Effect] = []
    current, leads = True, True
    names = reaching(_without_row_triggers(before), statements)
    for number, statement in enumerate(statements, start=1):
        if not current:
            now = snapshot(conn)
        current = sorter.is_as_written(statement, now)
        leads = leads and current
        why = why_not_run(statement, names)
        if why is not None:
            raise Unsupported(
                f"Statement {number} of the change ({statement.place()}: {_shortened(statement.sql)}). "
                + why.removesuffix("."),
                instead="Run it by itself, before or after the migration.",
            )
        locks = _run(conn, statement, number, settings)
        if current:
            earlier, now = now, snapshot(conn)
            did = changes(earlier, now)
            sorter.learn(did)
            effects.append(Effect(statement, earlier, now, did, locks, number - 1, leads))
    return Trace(before, now if current else snapshot(conn), tuple(effects))


def _without_row_triggers(catalog: Catalog) -> Catalog:
    """Return the catalog without the triggers that run nothing where there are no rows."""
    tables = (
        table.model_copy(
            update={"triggers": tuple(item for item in table.triggers if " FOR EACH ROW " not in item.definition)}
        )
        for table in catalog.tables
    )
    return catalog.model_copy(update={"tables": tuple(tables)})


def _run(
    conn: psycopg.Connection[TupleRow], statement: Statement, number: int, settings: Sequence[tuple[str, str]]
) -> tuple[LockUse, ...]:
    """Run and commit one statement; return the strongest lock that it took on each relation that was there."""
    with conn.transaction():
        limits(conn, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=STATEMENT_TIMEOUT_MS)
        for name, value in settings:
            conn.execute("SELECT set_config(%s, %s, true)", (name, value))
        last = conn.execute("SELECT coalesce(max(oid), 0) FROM pg_class").fetchone()
        run_statement(conn, statement, number)
        # Constraints and triggers that wait for the commit speak up now, where the statement can be named.
        conn.execute("SET CONSTRAINTS ALL IMMEDIATE")
        found = conn.execute(OWN_LOCKS, {"last": last[0] if last else 0}).fetchall()
    strongest: dict[TableName, LockUse] = {}
    for schema, name, mode in found:
        lock = LockUse(table=TableName(schema, name), mode=_mode(mode))
        known = strongest.get(lock.table)
        if known is None or LOCK_ORDER.index(lock.mode) > LOCK_ORDER.index(known.mode):
            strongest[lock.table] = lock
    return tuple(lock for _, lock in sorted(strongest.items()) if lock.mode != "ACCESS SHARE")


def _mode(printed: str) -> LockMode:
    """Return ShareRowExclusiveLock as SHARE ROW EXCLUSIVE."""
    return next(mode for mode in LOCK_ORDER if f"{mode.title().replace(' ', '')}Lock" == printed)


def run_statement(conn: psycopg.Connection[TupleRow], statement: Statement, number: int) -> None:
    """Run one statement of the change in the open transaction. Raises `SpecError` where the server refuses it."""
    try:
        conn.execute(statement.transactional_sql.encode())
    except psycopg.Error as error:
        raise SpecError(
            f"Statement {number} of the change ({_place(statement, error)}) fails on a clone of the schema: "
            f"{_reason(error)}\n  {_shortened(statement.sql)}",
            remedy=error.diag.message_hint or "Correct the change: it has to run on the live schema as it is now.",
        ) from None


def _place(statement: Statement, error: psycopg.Error) -> str:
    """Return the line of the change's source that the server points to, else the statement's first."""
    position = error.diag.statement_position
    if position is None or statement.concurrent:
        return statement.place()
    return statement.place(statement.sql.count("\n", 0, int(position) - 1))


def _reason(error: psycopg.Error) -> str:
    """Return the server's message and detail. The clone has no rows, so no value of a row can be in them."""
    primary = error.diag.message_primary or str(error).strip() or type(error).__name__
    detail = f" ({error.diag.message_detail})" if error.diag.message_detail else ""
    return f"{primary}{detail} [{error.sqlstate or 'no SQLSTATE'}]"


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else f"{line[:199]}…"
