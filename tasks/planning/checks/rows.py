"""The common form of a check over rows: count the bad ones, name up to ten by key.

A key is written as the JSON text of an array, e.g. ``[17]`` or ``["de", 4]``, as the sync trigger records it; as the
MD5 of that text when one of its columns is personal. Tables without a key have no sample.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from psycopg import sql

from tasks.planning.catalog import Table
from tasks.planning.names import TableName
from tasks.planning.plan import Check, CheckKind, Severity

SAMPLE_SIZE = 10
"""Enough to find the pattern; a longer list is a query for a person to run."""


@dataclass(frozen=True)
class Heading:
    """What a check is called: everything of a `Check` but its statement."""

    id: str
    kind: CheckKind
    title: str
    severity: Severity
    table: TableName
    corruption: bool = False

    def check(self, statement: sql.Composable) -> Check:
        """Return the check that runs ``statement``."""
        return Check(
            id=self.id,
            kind=self.kind,
            title=self.title,
            severity=self.severity,
            table=self.table,
            sql=statement.as_string(None),
            corruption=self.corruption,
        )


def check_id(kind: CheckKind, table: TableName, *parts: str) -> str:
    """Return the id of a check, unique within a gate, e.g. ``orphans:public.t:t_user_id_fkey``."""
    return ":".join((kind, str(table), *parts))


def is_personal(table: TableName, columns: Collection[str], personal: Collection[str]) -> bool:
    """Whether one of the columns is listed in ``personal``, whose entries are ``schema.table.column``."""
    return any(f"{table.schema}.{table.name}.{column}" in personal for column in columns)


def key_columns(table: Table) -> tuple[str, ...]:
    """Return the columns that name a row: the primary key, else a unique constraint without NULLs, else nothing."""
    if table.primary_key is not None:
        return table.primary_key.columns
    for constraint in table.constraints:
        columns = [table.column(name) for name in constraint.columns]
        if constraint.kind == "unique" and all(column is not None and column.not_null for column in columns):
            return constraint.columns
    return ()


def key_text(key: Sequence[str], *, qualifier: str | None = None, hashed: bool) -> sql.Composable:
    """Return the SQL expression that writes a row's key as text; NULL for a table without a key."""
    if not key:
        return sql.SQL("NULL::text")
    columns = sql.SQL(", ").join(_column(name, qualifier) for name in key)
    text = sql.SQL("jsonb_build_array({})::text").format(columns)
    return sql.SQL("md5({})").format(text) if hashed else text


def source(table: Table, projected: Mapping[str, str], *, alias: str | None = None) -> sql.Composable:
    """Return the FROM item that reads ``table`` as if ``projected`` (column → SQL over the row) were its columns.

    A projected name that the table already has replaces that column. Other names of the table stay readable, also
    qualified with the table's name, so a user's expression means what it means in a statement on the table.
    """
    name = sql.Identifier(alias or table.name.name)
    if not projected:
        return sql.SQL("{} AS {}").format(table.name.identifier, name)
    kept = [sql.Identifier(column.name) for column in table.columns if column.name not in projected]
    added = [sql.SQL("({}) AS {}").format(sql.SQL(text), sql.Identifier(column)) for column, text in projected.items()]
    return sql.SQL("(SELECT {} FROM {}) AS {}").format(sql.SQL(", ").join([*kept, *added]), table.name.identifier, name)


def row_check(
    heading: Heading,
    rows: sql.Composable,
    bad: sql.Composable,
    key: Sequence[str],
    *,
    qualifier: str | None = None,
    hashed: bool,
) -> Check:
    """Return the check whose failing units are the rows of ``rows`` (a FROM clause) for which ``bad`` is true.

    The keys are collected by a second look at the same snapshot, which the server leaves out when nothing fails.
    """
    positions = [sql.Identifier(f"k{number}") for number in range(len(key))]
    listed = [
        sql.SQL("{} AS key").format(key_text(key, qualifier=qualifier, hashed=hashed)),
        *(
            sql.SQL("{} AS {}").format(_column(name, qualifier), position)
            for name, position in zip(key, positions, strict=True)
        ),
        sql.SQL("({}) AS bad").format(bad),
    ]
    judged = sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(listed), rows)
    sample = (
        sql.SQL(
            "(SELECT coalesce(jsonb_agg(s.key), '[]'::jsonb) FROM"
            " (SELECT r.key FROM ({judged}) AS r WHERE r.bad ORDER BY {order} LIMIT {limit}) AS s)"
        ).format(judged=judged, order=sql.SQL(", ").join(positions), limit=sql.Literal(SAMPLE_SIZE))
        if key
        else sql.SQL("'[]'::jsonb")
    )
    return heading.check(
        sql.SQL(
            "SELECT c.failing, c.evaluated,"
            " CASE WHEN c.failing = 0 THEN '[]'::jsonb ELSE {sample} END AS sample, '{{}}'::jsonb AS observed"
            " FROM (SELECT count(*) FILTER (WHERE r.bad) AS failing, count(*) AS evaluated"
            " FROM ({judged}) AS r) AS c"
        ).format(sample=sample, judged=judged)
    )


def _column(name: str, qualifier: str | None) -> sql.Identifier:
    return sql.Identifier(name) if qualifier is None else sql.Identifier(qualifier, name)
