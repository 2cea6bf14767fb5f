"""Whether indexes and constraints are in force: an invalid index serves nobody, and NOT VALID proves nothing."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from tasks.planning.catalog import Table
from tasks.planning.checks.rows import SAMPLE_SIZE, Heading, check_id
from tasks.planning.names import TableName, display
from tasks.planning.plan import Check


def schema(table: Table) -> Check:
    """Return the check that the live table has the columns of ``table``, of their types, and no others.

    What the column names and types do not say (constraints, defaults, triggers …) the schema hash compares, which is
    looked at before and after every phase.
    """
    heading = Heading(
        id=check_id("schema", table.name),
        kind="schema",
        title=f"{table.name}: the columns are {', '.join(display(column.name) for column in table.columns)}",
        severity="CRITICAL",
        table=table.name,
    )
    # A type outside pg_catalog is printed with or without its schema as search_path has it: there the OID decides.
    found = sql.SQL(
        "SELECT coalesce(a.attname::text, e.name) AS name, coalesce(CASE WHEN e.type LIKE '%.%'"
        " THEN a.atttypid = pg_catalog.to_regtype(e.type)::oid"
        " ELSE pg_catalog.format_type(a.atttypid, a.atttypmod) = e.type END, false) AS good"
        " FROM (SELECT * FROM pg_catalog.pg_attribute WHERE attrelid = {}::pg_catalog.regclass"
        " AND attnum > 0 AND NOT attisdropped) AS a"
        " FULL JOIN unnest({}, {}) AS e(name, type) ON e.name = a.attname::text"
    ).format(
        _regclass(table.name),
        _array([column.name for column in table.columns]),
        _array([column.type for column in table.columns]),
    )
    return _named(heading, found, [column.name for column in table.columns])


def index_validity(table: TableName, expected: Sequence[str] = (), excused: Sequence[str] = ()) -> Check:
    """Return the check that every index of the table is valid and ready, and that those of ``expected`` exist.

    Those of ``excused`` are not looked at.
    """
    heading = Heading(
        id=check_id("index_validity", table),
        kind="index_validity",
        title=f"{table}: every index is valid",
        severity="CRITICAL",
        table=table,
    )
    found = (
        "SELECT c.relname::text AS name, i.indisvalid AND i.indisready AS good FROM pg_catalog.pg_index AS i"
        " JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid WHERE i.indrelid = {}::pg_catalog.regclass"
        " AND c.relname::text <> ALL ({})"
    )
    return _named(heading, sql.SQL(found).format(_regclass(table), _array(excused)), expected)


def constraint_validity(table: TableName, names: Sequence[str]) -> Check:
    """Return the check that the constraints of these names exist and are validated."""
    heading = Heading(
        id=check_id("constraint_validity", table),
        kind="constraint_validity",
        title=f"{table}: constraints are validated: {', '.join(names)}",
        severity="CRITICAL",
        table=table,
    )
    found = (
        "SELECT c.conname::text AS name, c.convalidated AS good FROM pg_catalog.pg_constraint AS c"
        " WHERE c.conrelid = {}::pg_catalog.regclass AND c.conname::text = ANY ({})"
    )
    return _named(heading, sql.SQL(found).format(_regclass(table), _array(names)), names)


def _named(heading: Heading, found: sql.Composable, expected: Sequence[str]) -> Check:
    """Return the check over objects ``(name, good)``: an expected one that is not found is not good either."""
    return heading.check(
        sql.SQL(
            "WITH judged AS (SELECT coalesce(f.name, e.name) AS name, coalesce(f.good, false) AS good"
            " FROM ({found}) AS f FULL JOIN unnest({expected}) AS e(name) ON e.name = f.name)"
            " SELECT (SELECT count(*) FROM judged AS j WHERE NOT j.good) AS failing,"
            " (SELECT count(*) FROM judged) AS evaluated,"
            " coalesce((SELECT jsonb_agg(s.name) FROM (SELECT j.name FROM judged AS j WHERE NOT j.good"
            " ORDER BY j.name LIMIT {limit}) AS s), '[]'::jsonb) AS sample, '{{}}'::jsonb AS observed"
        ).format(found=found, expected=_array(expected), limit=sql.Literal(SAMPLE_SIZE))
    )


def _regclass(table: TableName) -> sql.Literal:
    return sql.Literal(table.identifier.as_string(None))


def _array(names: Sequence[str]) -> sql.Composable:
    return sql.SQL("ARRAY[{}]::text[]").format(sql.SQL(", ").join(sql.Literal(name) for name in names))
