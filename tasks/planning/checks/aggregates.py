"""Aggregates of both shapes side by side, to be looked at. What is wrong in a row, parity says."""

from __future__ import annotations

import re
from collections.abc import Collection

from psycopg import sql

from tasks.planning.catalog import Column, Table
from tasks.planning.checks.parity import agrees_by_down, both_shapes
from tasks.planning.checks.rows import Heading, check_id, is_personal
from tasks.planning.names import display
from tasks.planning.plan import Check, MappedGroup

_NUMBER = re.compile(r"(smallint|integer|bigint|numeric|real|double precision|money)\b(?!.*\[)")
_TIME = re.compile(r"(date|timestamp|time|interval)\b(?!.*\[)")

_COUNTS = {"count": "count({})"}
_DISTINCT = {"distinct": "count(DISTINCT {})"}
_RANGE = {"min": "min({})", "max": "max({})"}
_MEAN = {"average": "avg({})"}


def aggregates(group: MappedGroup, table: Table, *, personal: Collection[str] = (), left_out: int = 0) -> Check:
    """Return the check that shows count, distinct values, minimum, maximum and average of what old says and of new.

    Old says ``up(old)``, or new itself where ``down(new) = old``: what a lossy mapping lost is no difference here.
    ``failing`` counts the measures that differ. Minimum, maximum and average are of numbers and times only, and of
    no column that is personal or computed from personal ones.
    """
    secret = is_personal(table.name, (*group.old, *group.new), personal)
    measures: list[tuple[str, sql.Composable, sql.Composable]] = []
    for number, assignment in enumerate(group.up):
        column = table.column(assignment.column)
        if column is None:
            raise ValueError(f"{table.name} is not expanded: it lacks {assignment.column}")
        new = sql.Identifier(f"n{number}")
        said = sql.SQL("CASE WHEN {} THEN {} ELSE {} END").format(
            agrees_by_down(group, table), new, sql.Identifier(f"u{number}")
        )
        for name, form in _measures(column, secret).items():
            measures.append((f"{display(column.name)}.{name}", sql.SQL(form).format(said), sql.SQL(form).format(new)))
    heading = Heading(
        id=check_id("aggregates", table.name, *group.new),
        kind="aggregates",
        title=f"{table.name}: totals of {', '.join(map(display, group.new))}, old and new",
        severity="INFO",
        table=table.name,
    )
    names = [(sql.Identifier(f"a{number}"), sql.Identifier(f"b{number}")) for number in range(len(measures))]
    return heading.check(
        sql.SQL(
            "SELECT ({differing})::bigint AS failing, {evaluated}::bigint AS evaluated,"
            " '[]'::jsonb AS sample, {observed} AS observed FROM (SELECT {measured} FROM ({both}) AS s) AS m"
        ).format(
            differing=sql.SQL(" + ").join(sql.SQL("({} IS DISTINCT FROM {})::int").format(a, b) for a, b in names),
            evaluated=sql.Literal(len(measures)),
            # One object a measure: a single call would hit the limit of 100 arguments.
            observed=sql.SQL(" || ").join(
                sql.SQL("jsonb_build_object({}, concat('old ', coalesce({}::text, '-'), ', new ', {}))").format(
                    sql.Literal(title), a, sql.SQL("coalesce({}::text, '-')").format(b)
                )
                for (title, _, _), (a, b) in zip(measures, names, strict=True)
            ),
            measured=sql.SQL(", ").join(
                sql.SQL("{} AS {}, {} AS {}").format(old, a, new, b)
                for (_, old, new), (a, b) in zip(measures, names, strict=True)
            ),
            both=both_shapes(group, table, (), left_out=left_out),
        )
    )


def row_count(table: Table) -> Check:
    """Return the check that shows how many rows there are now."""
    heading = Heading(
        id=check_id("row_count", table.name),
        kind="row_count",
        title=f"{table.name}: rows",
        severity="INFO",
        table=table.name,
    )
    return heading.check(
        sql.SQL(
            "SELECT 0::bigint AS failing, c.rows AS evaluated, '[]'::jsonb AS sample,"
            " jsonb_build_object('rows', c.rows::text) AS observed FROM (SELECT count(*) AS rows FROM {}) AS c"
        ).format(table.name.identifier)
    )


def _measures(column: Column, secret: bool) -> dict[str, str]:
    chosen = dict(_COUNTS)
    if column.has_equality:
        chosen |= _DISTINCT
    if secret:
        return chosen
    if _NUMBER.match(column.type):
        # money has no average, and no type to take it in without rounding.
        return chosen | _RANGE | ({} if column.type.startswith("money") else _MEAN)
    return chosen | _RANGE if _TIME.match(column.type) else chosen
