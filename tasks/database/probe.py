"""Probing `up` on the rows that are really there: all of a small table, a sample of a large one. Reads only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from tasks.database.canonical import Canonical
from tasks.database.connection import limits
from tasks.planning.catalog import Table
from tasks.planning.checks.rows import key_columns, key_text
from tasks.planning.errors import SpecError
from tasks.planning.names import TableName, verbatim

ALL_ROWS_UP_TO = 200_000
"""Tables up to this size are probed whole; of larger ones, about as many rows are sampled."""

ROW_BYTES = 64
"""What a row is taken to need at least where the table was never analysed, so that nothing is known of its rows."""

SHOWN_KEYS = 3
_NOT_FOUND = frozenset({"42883", "42P01", "42704", "3F000"})
"""A function, table, type or schema is not found, by an expression that the server has understood before."""

LOCK_TIMEOUT_MS = 1_000
STATEMENT_TIMEOUT_MS = 60_000


@dataclass(frozen=True)
class Probed:
    """How many rows an expression was computed for, and whether they were a sample."""

    rows: int
    sampled: bool


@dataclass(frozen=True)
class _Failure:
    sqlstate: str
    message: str


def probe_up(
    connection: psycopg.Connection[TupleRow],
    table: Table,
    expressions: Mapping[str, Canonical],
    *,
    personal_key: bool,
    statement_timeout_ms: int = STATEMENT_TIMEOUT_MS,
) -> Probed:
    """Compute `up` for the rows of the live table, typed as the new columns want it.

    ``expressions`` are by what messages call them, e.g. ``mapping.water_intake.volume_ml.up``; ``table`` is of the live
    catalog, its ``rows`` and ``bytes`` decide whether all rows or a sample are computed. One READ ONLY transaction, one
    snapshot. Raises SpecError with SQLSTATE and the keys of up to three rows that fail, hashed when ``personal_key``.
    """
    rows = table.rows if table.rows > 0 else table.bytes // ROW_BYTES
    source, sampled = _source(table.name, rows)
    with _reading(connection, statement_timeout_ms):
        for name, expression in expressions.items():
            failure = _compute(connection, expression, source, sql.SQL("true"))
            if failure is not None:
                raise _refusal(name, failure, _failing_keys(connection, table, expression, source, personal_key))
        counted = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(source)).fetchone()
    return Probed(rows=int(counted[0]) if counted else 0, sampled=sampled)


def sample_up(
    connection: psycopg.Connection[TupleRow],
    table: TableName,
    columns: Mapping[str, str],
    *,
    rows: int = 1_000,
    statement_timeout_ms: int = STATEMENT_TIMEOUT_MS,
) -> tuple[dict[str, str | None], ...]:
    """Return what some rows of the live table look like in the new shape, as text, for `probe_down`.

    ``columns`` are the new columns with their `up`, and columns that stay with their own quoted name. The values are
    the rows' own: never to be shown, logged or stored. `probe_up` has passed, so nothing raises.
    """
    projected = [sql.SQL("({})::text").format(verbatim(expression)) for expression in columns.values()]
    statement = sql.SQL("SELECT {} FROM {} LIMIT {}").format(
        sql.SQL(", ").join(projected), table.identifier, sql.Literal(rows)
    )
    with _reading(connection, statement_timeout_ms):
        found = connection.execute(statement).fetchall()
    return tuple(dict(zip(columns, row, strict=True)) for row in found)


@contextmanager
def _reading(connection: psycopg.Connection[TupleRow], statement_timeout_ms: int) -> Iterator[None]:
    with connection.transaction(force_rollback=True):
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        limits(connection, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=statement_timeout_ms)
        connection.execute("SELECT set_config('search_path', '', true)")
        yield


def _source(table: TableName, rows: int) -> tuple[sql.Composed, bool]:
    if rows <= ALL_ROWS_UP_TO:
        return sql.SQL("{}").format(table.identifier), False
    # REPEATABLE: the search for failing rows sees the very rows that failed.
    percent = sql.Literal(max(100 * ALL_ROWS_UP_TO / rows, 0.001))
    return sql.SQL("{} TABLESAMPLE SYSTEM ({}) REPEATABLE (1)").format(table.identifier, percent), True


def _compute(
    connection: psycopg.Connection[TupleRow], expression: Canonical, source: sql.Composable, where: sql.Composable
) -> _Failure | None:
    """Return why the expression cannot be computed for the rows of the source, None when it can.

    ``count(x)`` has to compute x. A value that its column would cut is found by comparing it with itself cut.
    """
    statement = sql.SQL("SELECT count({value}), count(*) FILTER (WHERE {cut}) FROM {source} WHERE {where}").format(
        value=verbatim(f"({expression.text})"), cut=is_cut(expression), source=source, where=where
    )
    try:
        with connection.transaction():
            row = connection.execute(statement).fetchone()
    except (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable) as error:
        raise SpecError(
            f"The table could not be probed: {error.diag.message_primary} (SQLSTATE {error.sqlstate}).",
            remedy="Try again when the database has less to do, or no other session locks the table.",
        ) from None
    except psycopg.Error as error:
        # Not the server's message: it may quote a value of the row.
        return _Failure(error.sqlstate or "", _condition(error))
    if row is not None and row[1]:
        return _Failure("22001", f"StringDataRightTruncation for {expression.type}")
    return None


def is_cut(expression: Canonical) -> sql.Composable:
    """Return the condition that the expression's value does not fit into the length of its column."""
    if expression.cast == expression.type:
        return sql.SQL("false")
    return verbatim(f"(({expression.text})::{expression.type})::{expression.cast} IS DISTINCT FROM ({expression.text})")


def _condition(error: psycopg.Error) -> str:
    """Return the name of the error's condition, e.g. ``DivisionByZero``: it says what happened and quotes no value."""
    return type(error).__name__


def _failing_keys(
    connection: psycopg.Connection[TupleRow],
    table: Table,
    expression: Canonical,
    source: sql.Composable,
    personal_key: bool,
) -> tuple[str, ...]:
    """Return the keys of the first rows that fail, found by halving the range of keys."""
    columns = key_columns(table)
    if not columns:
        return ()
    names = [sql.Identifier(name) for name in columns]
    types = [column.type for name in columns if (column := table.column(name)) is not None]
    keys = connection.execute(
        sql.SQL("SELECT {shown}, {parts} FROM {source} ORDER BY {names}").format(
            shown=key_text(columns, hashed=personal_key),
            # Under names of their own: ORDER BY would otherwise take the text for the column.
            parts=sql.SQL(", ").join(
                sql.SQL("{}::text AS {}").format(name, sql.Identifier(f"lockstep_key_{number}"))
                for number, name in enumerate(names)
            ),
            source=source,
            names=sql.SQL(", ").join(names),
        )
    ).fetchall()

    def fails(first: int, last: int) -> bool:
        bounds = [
            sql.SQL("({}) {} ({})").format(
                sql.SQL(", ").join(names), operator, sql.SQL(", ").join(_typed(keys[position][1:], types))
            )
            for operator, position in ((sql.SQL(">="), first), (sql.SQL("<="), last))
        ]
        return _compute(connection, expression, source, sql.SQL(" AND ").join(bounds)) is not None

    return tuple(keys[position][0] for position in _first_failing(len(keys), fails))


def _typed(values: Sequence[str], types: Sequence[str]) -> Iterator[sql.Composable]:
    for value, type_ in zip(values, types, strict=True):
        yield sql.SQL("{}::{}").format(sql.Literal(value), verbatim(type_))


def _first_failing(size: int, fails: Callable[[int, int], bool]) -> Iterator[int]:
    """Yield up to `SHOWN_KEYS` positions that fail alone; ``fails(first, last)`` tests a range, both ends included."""
    start, found = 0, 0
    while found < SHOWN_KEYS and start < size and fails(start, size - 1):
        low, high = start, size - 1
        while low < high:
            middle = (low + high) // 2
            if fails(low, middle):
                high = middle
            else:
                low = middle + 1
        yield low
        start, found = low + 1, found + 1


def _refusal(name: str, failure: _Failure, keys: Sequence[str]) -> SpecError:
    where = f" for the rows with the keys {', '.join(keys)}" if keys else " for rows of the table"
    more = " and perhaps more" if len(keys) == SHOWN_KEYS else ""
    remedy = (
        "Make the expression cover these rows (COALESCE, CASE), or correct the rows first, in a migration of its own: "
        "an UPDATE in the same change comes after the new column is filled."
    )
    if failure.sqlstate in _NOT_FOUND:
        remedy = (
            "A function that it calls relies on search_path, which the sync does not have: give the function one of "
            "its own (ALTER FUNCTION … SET search_path), or let its body name everything with its schema."
        )
    return SpecError(
        f"{name}: the expression fails{where}{more}: {failure.message} (SQLSTATE {failure.sqlstate}).", remedy=remedy
    )
