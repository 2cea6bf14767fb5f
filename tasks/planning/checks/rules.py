"""Rules: a condition that every row satisfies, over the columns there are or over projected ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from psycopg import sql

from tasks.planning.catalog import Table
from tasks.planning.checks.rows import Heading, check_id, is_personal, key_columns, row_check, source
from tasks.planning.names import display
from tasks.planning.plan import Check, Severity

_NOTHING: Mapping[str, str] = {}


def rule(
    name: str,
    table: Table,
    where: str,
    severity: Severity = "CRITICAL",
    *,
    personal: Collection[str] = (),
    projected: Mapping[str, str] = _NOTHING,
    corruption: bool = False,
) -> Check:
    """Return the check that ``where`` is true for every row; unknown (NULL) is not true.

    A CHECK constraint accepts unknown: to foresee one, wrap its condition as ``(…) IS NOT FALSE``.
    """
    key = key_columns(table)
    heading = Heading(
        id=check_id("rule", table.name, name),
        kind="rule",
        title=f"{table.name}: {name}: {where}",
        severity=severity,
        table=table.name,
        corruption=corruption,
    )
    bad = sql.SQL("({}) IS NOT TRUE").format(sql.SQL(where))
    return row_check(heading, source(table, projected), bad, key, hashed=is_personal(table.name, key, personal))


def not_null(
    table: Table,
    column: str,
    *,
    personal: Collection[str] = (),
    projected: Mapping[str, str] = _NOTHING,
    corruption: bool = False,
) -> Check:
    """Return the check that no row has NULL in ``column``, which may be a projected one."""
    key = key_columns(table)
    heading = Heading(
        id=check_id("not_null", table.name, column),
        kind="not_null",
        title=f"{table.name}.{display(column)} has a value in every row",
        severity="CRITICAL",
        table=table.name,
        corruption=corruption,
    )
    bad = sql.SQL("{} IS NULL").format(sql.Identifier(column))
    return row_check(heading, source(table, projected), bad, key, hashed=is_personal(table.name, key, personal))


def evaluates(table: Table, projected: Mapping[str, str]) -> Check:
    """Return the check that the projected columns can be computed for every row, whatever they come to.

    It fails by raising: PostgreSQL does not say at which row, so it names none.
    """
    counts = [sql.SQL("count({})").format(sql.Identifier(column)) for column in projected]
    heading = Heading(
        id=check_id("rule", table.name, "evaluates", *projected),
        kind="rule",
        title=f"{table.name}: {', '.join(display(column) for column in projected)} can be computed for every row",
        severity="CRITICAL",
        table=table.name,
    )
    return heading.check(
        sql.SQL(
            "SELECT 0::bigint AS failing, c.evaluated, '[]'::jsonb AS sample,"
            " jsonb_build_object('values', c.filled::text) AS observed"
            " FROM (SELECT count(*) AS evaluated, {filled} AS filled FROM {rows}) AS c"
        ).format(filled=sql.SQL(" + ").join(counts), rows=source(table, projected))
    )
