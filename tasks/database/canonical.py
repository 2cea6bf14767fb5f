"""The canonical form of a mapping expression: type-checked and fully qualified by the server itself.

The expression is put into a CHECK constraint on the clone's table, in a transaction that is rolled back, and read back
with ``pg_get_expr`` under an empty search_path. The server thereby resolves every function, type and operator, refuses
what reads more than the row (subqueries, aggregates, window and set-returning functions), and says which columns are
read.
A view would do the same, but up to version 15 prints ``table.column`` for each column; a constraint never does.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow, dict_row

from tasks.database.connection import limits
from tasks.database.totality import is_column, may_raise
from tasks.planning import parser
from tasks.planning.errors import SpecError
from tasks.planning.names import TableName, own_name, verbatim

_SQL = files("tasks.database") / "sql"
CANONICAL_EXPRESSION = (_SQL / "canonical_expression.sql").read_bytes()
EXPRESSION_TYPE = (_SQL / "expression_type.sql").read_bytes()

LOCK_TIMEOUT_MS = 5_000
STATEMENT_TIMEOUT_MS = 30_000

_OF_THE_MOMENT = frozenset(
    {
        "now()", "transaction_timestamp()", "statement_timestamp()", "age(timestamp with time zone)",
        "age(timestamp without time zone)", "current_setting(text)", "current_setting(text,boolean)",
        "pg_backend_pid()", "current_schema()", "current_schemas(boolean)", "current_database()",
        "inet_client_addr()", "inet_server_addr()", "txid_current()", "pg_current_xact_id()",
    }
)  # fmt: skip
"""Functions, stable for the server, whose result depends on when or by whom the row is written."""

_LENGTH_LIMITED = re.compile(r"(character varying|character|bit varying|bit)\(\d+\)((?:\[\])*)")
_WITHOUT_LENGTH = {
    "character varying": "character varying",
    "character": "bpchar",
    "bit varying": "bit varying",
    "bit": "bit varying",
}

_ONLY_THE_ROW = {"0A000", "42803", "42P20", "42P10"}


@dataclass(frozen=True)
class Canonical:
    """An expression as the server understands it, over the bare column names of one table.

    ``text`` is of type ``cast`` and is meant to run with an empty search_path. ``type`` is the column's; the two differ
    where an explicit cast would cut a value to the column's length. ``volatility`` is
    "stable" where the result depends on the session's settings, TimeZone and DateStyle above all: whoever evaluates it
    has to pin them. ``may_raise`` is False only where it is proven, see `tasks.database.totality`.
    """

    text: str
    type: str
    cast: str
    input_columns: tuple[str, ...]
    volatility: Literal["immutable", "stable"]
    may_raise: bool

    @property
    def is_immutable(self) -> bool:
        return self.volatility == "immutable"


def canonicalise(
    connection: psycopg.Connection[TupleRow],
    table: TableName,
    expression: str,
    type: str,  # noqa: A002
    *,
    key: str | None = None,
) -> Canonical:
    """Return the canonical form of an expression over the table's columns, as a value of ``type``.

    The connection is to a clone in which the table has the shape that the expression reads: the old one for `up`, the
    new one for `down`; nothing remains there. ``type`` is as ``format_type`` prints it, and
    ``key`` is how messages call the expression, e.g. ``mapping.water_intake.volume_ml.up``.

    A length-limited type (``varchar(10)``, ``char(3)``, ``bit(4)``) is left without its length, because an explicit
    cast would cut the value silently; the assignment to the column then refuses it. Raises SpecError.
    """
    where = _Where(key or f"the expression for {table}", expression)
    try:
        parser.parse_expression(expression)
    except SpecError as error:
        raise where.refused(error.what) from None
    with connection.transaction(force_rollback=True):
        limits(connection, lock_timeout_ms=LOCK_TIMEOUT_MS, statement_timeout_ms=STATEMENT_TIMEOUT_MS)
        columns = _columns(connection, table)
        cast = type
        found = _understood(connection, table, where, cast, columns)
        if not is_column(found["tree"]):
            cast = _cast_type(connection, type)
            if cast != type:
                found = _understood(connection, table, where, cast, columns)
    functions = {function["oid"]: function["name"] for function in found["functions"]}
    return Canonical(
        text=_without_test(found["text"]),
        type=type,
        cast=cast,
        input_columns=tuple(found["columns"]),
        volatility="immutable" if found["immutable"] else "stable",
        may_raise=cast != type or may_raise(found["tree"], functions),
    )


@dataclass(frozen=True)
class _Where:
    """What a refusal has to name."""

    key: str
    expression: str

    def refused(self, reason: str, remedy: str | None = None) -> SpecError:
        return SpecError(f"{self.key}: {self.expression.strip()!r} cannot be used: {reason}", remedy=remedy)


def _understood(
    connection: psycopg.Connection[TupleRow], table: TableName, where: _Where, cast: str, columns: dict[str, str]
) -> dict[str, Any]:
    constraint = own_name("probe", str(table), where.expression)
    head = sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} CHECK (((").format(table.identifier, sql.Identifier(constraint))
    # The line break ends a comment at the end of the expression.
    tail = b"\n)::" + cast.encode() + b") IS NULL) NOT VALID"
    with connection.transaction(force_rollback=True):
        try:
            connection.execute(head.as_bytes(connection) + where.expression.encode() + tail)
        except psycopg.Error as error:
            raise where.refused(*_reason(error, columns)) from None
        connection.execute("SELECT set_config('search_path', '', true)")
        with connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(CANONICAL_EXPRESSION, (table.identifier.as_string(connection), constraint))
            found = cursor.fetchone()
        if found is None:
            raise where.refused("the server kept nothing of it")
        _refuse_beyond_the_row(found, where)
        return found | {"immutable": _is_immutable(connection, table, found["text"])}


def _reason(error: psycopg.Error, columns: dict[str, str]) -> tuple[str, str | None]:
    """Return what the server objects to, and what to do about it."""
    message = error.diag.message_primary or str(error)
    reason = f"{message} (SQLSTATE {error.sqlstate})."
    match error.sqlstate:
        case "42703":  # undefined column
            name = re.search(r'column "?(.*?)"? (?:does not exist|of relation)', message)
            near = difflib.get_close_matches(name[1].split(".")[-1].strip('"'), columns, n=3) if name else []
            return reason, f"Columns that it can read: {', '.join(near or columns)}."
        case "42804" | "42846" | "42883" | "42725":  # mismatch, cannot coerce, undefined or ambiguous function
            return reason, error.diag.message_hint or "Write an explicit cast to the type that is meant."
        case state if state in _ONLY_THE_ROW:
            only = re.sub(r" in check constraints?", "", message)
            return f"it may compute only from its own row: {only} (SQLSTATE {state}).", None
        case _:
            return reason, error.diag.message_hint


def _refuse_beyond_the_row(found: dict[str, Any], where: _Where) -> None:
    volatile = [function["name"] for function in found["functions"] if function["volatility"] == "v"]
    if volatile:
        raise where.refused(
            f"{volatile[0]} is volatile, so the trigger, the backfill and the gate would each get another value.",
            "Compute from the row's own columns only; a value of its own for each row belongs into a DEFAULT.",
        )
    moment = [function["name"] for function in found["functions"] if function["name"] in _OF_THE_MOMENT]
    if "{SQLVALUEFUNCTION" in found["tree"]:
        moment.append("a value like CURRENT_TIMESTAMP or CURRENT_USER")
    if moment:
        raise where.refused(
            f"{moment[0]} depends on when and by whom the row is written, not on the row.",
            "Compute from the row's own columns only; a DEFAULT may read the clock.",
        )
    if found["beyond_columns"]:
        raise where.refused("it reads the whole row or a system column.", "Name the columns that are meant.")


def _without_test(text: str) -> str:
    for test in (" IS NULL)", " IS NOT DISTINCT FROM NULL)"):
        if text.startswith("(") and text.endswith(test):
            return text[1 : -len(test)]
    raise AssertionError(f"a NULL test is printed differently by this server: {text}")


def _is_immutable(connection: psycopg.Connection[TupleRow], table: TableName, condition: str) -> bool:
    """Ask the server by an index predicate, which must be immutable; this also proves that the text parses again.

    On an empty copy of the table, so that the predicate is computed for no row.
    """
    copy = sql.Identifier("pg_temp", own_name("probe", str(table)))
    connection.execute(sql.SQL("CREATE TEMPORARY TABLE {} (LIKE {})").format(copy, table.identifier))
    statement = sql.SQL("CREATE INDEX ON {} ((1)) WHERE {}").format(copy, verbatim(condition))
    try:
        with connection.transaction():
            connection.execute(statement)
    except psycopg.errors.InvalidObjectDefinition:
        return False
    return True


def _columns(connection: psycopg.Connection[TupleRow], table: TableName) -> dict[str, str]:
    """Return the type of every column by name; empty when there is no such table."""
    rows: list[tuple[str, str]] = connection.execute(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        (table.identifier.as_string(connection),),
    ).fetchall()
    return dict(rows)


def _cast_type(connection: psycopg.Connection[TupleRow], type_: str) -> str:
    """Return the type to cast to: ``type_`` itself, or what it is without its length limit."""
    row = connection.execute(EXPRESSION_TYPE, (type_, type_)).fetchone()
    limited = _LENGTH_LIMITED.fullmatch(row[0]) if row else None
    return _WITHOUT_LENGTH[limited[1]] + limited[2] if limited else type_
