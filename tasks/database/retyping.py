"""Which changes of type the server makes in its catalog alone: it is asked on a clone, change by change.

What the server does it says in messages at DEBUG1 (``rewriting table``, ``verifying table``, ``building index``,
``validating foreign key``); they are told apart by the function that wrote them, whatever the language. An empty table
gets the same answers as a full one: the server decides by the types alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence

import psycopg
from psycopg.rows import TupleRow

from tasks.database.clone import SchemaClone
from tasks.database.connection import connect, limits
from tasks.database.observation import MODES
from tasks.planning.catalog import Catalog, Constraint
from tasks.planning.names import TableName
from tasks.planning.plan import LOCK_ORDER, LockUse
from tasks.planning.retyping import DirectRetype, Retyped, is_plain_cast, statement
from tasks.planning.strategies.expand_contract.mapping import Wanted
from tasks.planning.strategies.expand_contract.retype import dropped_checks, restored_checks

Connection = psycopg.Connection[TupleRow]

LOCK_TIMEOUT_MS = 5_000
STATEMENT_TIMEOUT_MS = 60_000

HEAVY = frozenset({"ATRewriteTable", "index_build", "validateForeignKeyConstraint", "RI_Initial_Check"})
"""The server's functions that announce work on every row."""

_LOCKS = """
SELECT n.nspname::text, c.relname::text, l.mode
FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE l.pid = pg_backend_pid() AND l.granted AND c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_'
    AND l.mode LIKE '%ExclusiveLock'
ORDER BY 1, 2
"""


def direct_retypes(
    clone: SchemaClone,
    settings: Sequence[tuple[str, str]],
    columns: Sequence[Retyped],
    after: Catalog,
    using: Mapping[TableName, Mapping[str, str]],
    wanted: Mapping[TableName, Mapping[str, Wanted]],
) -> tuple[DirectRetype, ...]:
    """Return those of the columns that change their type without a rewrite, a scan or an index build.

    ``using`` are the change's USING expressions. One of them, or an `up` of the spec, that computes another value than
    the plain cast decides by itself: what the server has to compute, it has to write.
    """
    if not columns:
        return ()
    found: list[DirectRetype] = []
    with connect(clone.fresh(), role="oracle", settings=settings) as connection:
        trial = _Trial(connection)
        for column in columns:
            up = wanted.get(column.table, {}).get(column.name, Wanted()).up
            given = using.get(column.table, {}).get(column.name)
            if up is not None and not is_plain_cast(up, column.name, column.new.type):
                continue
            direct = trial.direct(column, given, _checks(column, after))
            if direct is not None:
                found.append(direct)
    return tuple(found)


def _checks(column: Retyped, after: Catalog) -> tuple[Constraint, ...]:
    """Return the CHECK constraints of the new shape that read the column."""
    table = after.table(column.table)
    found = table.constraints if table is not None else ()
    return tuple(c for c in found if c.kind == "check" and column.name in c.columns and not c.inherited)


class _Trial:
    """One clone on which changes of type are made one after the other; those that are not direct are taken back."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._announced: list[str] = []
        connection.add_notice_handler(lambda notice: self._announced.append(notice.source_function or ""))

    def direct(self, column: Retyped, using: str | None, checks: Collection[Constraint]) -> DirectRetype | None:
        forward = statement(column, column.new, using)
        locks = self._try(column, forward, checks)
        if locks is None:
            return None
        self._make(column, forward, checks)
        inverse = statement(column, column.old)
        back = inverse if self._try(column, inverse, checks) is not None else None
        return DirectRetype(column, forward, back, tuple(check.name for check in checks), locks)

    def _try(self, column: Retyped, change: str, checks: Collection[Constraint]) -> tuple[LockUse, ...] | None:
        """Return the locks of a change that is direct, None for one that is not or that the server refuses."""
        try:
            with self._connection.transaction(force_rollback=True):
                limits(self._connection, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=STATEMENT_TIMEOUT_MS)
                self._connection.execute("SET LOCAL client_min_messages = debug1")
                for text in dropped_checks(column.table, [check.name for check in checks]):
                    self._connection.execute(text.encode())
                self._announced.clear()
                self._connection.execute(change.encode())
                heavy = HEAVY & set(self._announced)
                held = self._connection.execute(_LOCKS.encode()).fetchall()
        except psycopg.Error:
            return None
        return None if heavy else _strongest(held)

    def _make(self, column: Retyped, change: str, checks: Collection[Constraint]) -> None:
        with self._connection.transaction():
            texts = dropped_checks(column.table, [check.name for check in checks])
            for text in (*texts, change, *restored_checks(column.table, checks)):
                self._connection.execute(text.encode())


def _strongest(held: Sequence[tuple[str, str, str]]) -> tuple[LockUse, ...]:
    uses = []
    for (schema, name), rows in itertools.groupby(held, key=lambda row: (row[0], row[1])):
        mode = max((MODES[row[2]] for row in rows), key=LOCK_ORDER.index)
        uses.append(LockUse(table=TableName(schema, name), mode=mode))
    return tuple(uses)
