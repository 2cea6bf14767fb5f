"""Duplicates: rows that a unique key, present or coming, would refuse."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from psycopg import sql

from tasks.planning.catalog import Constraint, Index, Table
from tasks.planning.checks.index_terms import key_list
from tasks.planning.checks.rows import Heading, check_id, is_personal, key_columns, row_check, source
from tasks.planning.names import display
from tasks.planning.plan import Check

_NOTHING: Mapping[str, str] = {}


@dataclass(frozen=True)
class UniqueKey:
    """What must not occur twice: ``terms`` are SQL expressions over the row, ``predicate`` limits the rows."""

    name: str
    terms: tuple[str, ...]
    predicate: str | None = None
    nulls_not_distinct: bool = False


def unique_key(origin: Constraint | Index) -> UniqueKey:
    """Return the key behind a primary key, a unique constraint or a unique index."""
    match origin:
        case Constraint():
            return UniqueKey(
                name=origin.name,
                terms=tuple(sql.Identifier(column).as_string(None) for column in origin.columns),
                nulls_not_distinct="NULLS NOT DISTINCT" in origin.definition,
            )
        case Index():
            terms, rest = key_list(origin.definition)
            before, where, predicate = rest.partition(" WHERE ")
            return UniqueKey(
                name=origin.name,
                terms=terms,
                predicate=predicate if where else None,
                nulls_not_distinct="NULLS NOT DISTINCT" in before,
            )


def unique_keys(table: Table) -> tuple[UniqueKey, ...]:
    """Return every unique key of a table: its constraints, and its unique indexes without one."""
    constraints = [unique_key(item) for item in table.constraints if item.kind in ("primary_key", "unique")]
    indexes = [unique_key(index) for index in table.indexes if index.unique and index.constraint is None]
    return (*constraints, *indexes)


def duplicates(
    table: Table,
    key: UniqueKey,
    *,
    personal: Collection[str] = (),
    projected: Mapping[str, str] = _NOTHING,
    corruption: bool = False,
) -> Check:
    """Return the check that no two rows have the same key; it counts all rows that share theirs with another.

    A coming key over columns that do not exist yet is checked by projecting them: ``projected`` is column → SQL over
    the row as it is now.
    """
    terms = sql.SQL(", ").join(sql.SQL("({})").format(sql.SQL(term)) for term in key.terms)
    shared = sql.SQL("count(*) OVER (PARTITION BY {}) > 1").format(terms)
    # num_nulls refuses an empty list only, and takes any type.
    bad = shared if key.nulls_not_distinct else sql.SQL("{} AND num_nulls({}) = 0").format(shared, terms)
    rows = source(table, projected)
    if key.predicate is not None:
        rows = sql.SQL("{} WHERE {}").format(rows, sql.SQL(key.predicate))
    row_key = key_columns(table)
    heading = Heading(
        id=check_id("duplicates", table.name, key.name),
        kind="duplicates",
        title=f"{table.name}: no two rows with the same {', '.join(key.terms)} ({display(key.name)})",
        severity="CRITICAL",
        table=table.name,
        corruption=corruption,
    )
    return row_check(heading, rows, bad, row_key, hashed=is_personal(table.name, row_key, personal))
