"""Orphans: rows that refer to a row that is not there. A valid foreign key has none; a NOT VALID one may."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from psycopg import sql

from tasks.planning.catalog import Constraint, Table
from tasks.planning.checks.rows import Heading, check_id, is_personal, key_columns, row_check, source
from tasks.planning.names import display
from tasks.planning.plan import Check

_NOTHING: Mapping[str, str] = {}


def orphans(
    foreign_key: Constraint,
    table: Table,
    *,
    personal: Collection[str] = (),
    projected: Mapping[str, str] = _NOTHING,
    corruption: bool = False,
) -> Check:
    """Return the check that every row of ``table`` satisfies ``foreign_key``, as its MATCH type defines it.

    MATCH SIMPLE asks nothing of a row with a NULL among the columns; MATCH FULL refuses a row with some, but not all,
    of them NULL. ``projected`` gives columns that are still to come, as SQL over the row.
    """
    if foreign_key.references is None or len(foreign_key.columns) != len(foreign_key.referenced_columns):
        raise ValueError(f"{foreign_key.name} is not a foreign key")
    own = [sql.Identifier("referencing", column) for column in foreign_key.columns]
    theirs = [sql.Identifier("referenced", column) for column in foreign_key.referenced_columns]
    same = sql.SQL(" AND ").join(sql.SQL("{} = {}").format(a, b) for a, b in zip(theirs, own, strict=True))
    compared = "num_nonnulls({}) > 0" if "MATCH FULL" in foreign_key.definition else "num_nulls({}) = 0"
    bad = sql.SQL(compared + " AND {} IS NULL").format(sql.SQL(", ").join(own), theirs[0])
    rows = sql.SQL("{} LEFT JOIN {} AS referenced ON {}").format(
        source(table, projected, alias="referencing"), foreign_key.references.identifier, same
    )
    key = key_columns(table)
    heading = Heading(
        id=check_id("orphans", table.name, foreign_key.name),
        kind="orphans",
        title=f"{table.name} ({_listed(foreign_key.columns)}) refers to existing rows of {foreign_key.references}",
        severity="CRITICAL",
        table=table.name,
        corruption=corruption,
    )
    return row_check(heading, rows, bad, key, qualifier="referencing", hashed=is_personal(table.name, key, personal))


def _listed(columns: Collection[str]) -> str:
    return ", ".join(display(column) for column in columns)
