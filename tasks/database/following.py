"""The catalog after a statement from the catalog before it, read anew only where the statement can have changed it.

A snapshot of a thousand tables takes seconds, most statements concern one. Which catalogs the server wrote, which
relations it locked and whose rows it touched says where to look; a change that shows in the definitions of tables that
it does not touch (a renamed table, column, type or schema) has everything read.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
from psycopg.rows import TupleRow

from tasks.database.catalog import refreshed, snapshot
from tasks.database.observation import INDEXES, TABLES, VIEWS, Observation, Relations
from tasks.planning.catalog import Catalog, Table
from tasks.planning.change import Change
from tasks.planning.meaning import changes
from tasks.planning.plan import LOCK_ORDER

Connection = psycopg.Connection[TupleRow]

_NO_SCHEMA = frozenset({"pg_statistic", "pg_statistic_ext_data", "pg_largeobject"})
_OF_TABLES = frozenset(
    {
        "pg_class", "pg_attribute", "pg_attrdef", "pg_constraint", "pg_index", "pg_inherits", "pg_depend",
        "pg_shdepend", "pg_trigger", "pg_policy", "pg_partitioned_table", "pg_statistic_ext", "pg_description",
        "pg_type",
    }
)  # fmt: skip
"""What a statement on a table writes; of pg_type, the table's own row type."""

_EVERYWHERE = frozenset(
    {
        "pg_collation", "pg_opclass", "pg_opfamily", "pg_operator", "pg_cast", "pg_extension", "pg_publication",
        "pg_publication_rel", "pg_publication_namespace", "pg_foreign_server", "pg_am", "pg_namespace",
    }
)  # fmt: skip
"""What is written here may show in the definition of any table."""

_ON_TABLES = frozenset(
    {
        "alter_table", "create_table", "drop_table", "create_index", "drop_index", "create_trigger", "drop_trigger",
        "create_policy", "alter_policy", "drop_policy", "comment",
    }
)  # fmt: skip
"""Statements that change nothing else than tables unless the catalogs that they write say so."""

_STRONG = LOCK_ORDER.index("SHARE UPDATE EXCLUSIVE")
"""Whatever changes the definition of a relation takes this lock on it, or a stronger one."""


def followed(
    conn: Connection, before: Catalog, seen: Observation, earlier: Relations, now: Relations, kind: str
) -> Catalog:
    """Return the catalog after a statement of this kind; ``before`` itself where the statement changed no schema.

    ``earlier`` and ``now`` are the relations before and after the statement.
    """
    if seen.written is None:
        return snapshot(conn)
    written = frozenset(seen.written) - _NO_SCHEMA
    if not written:
        return before
    if _shows_everywhere(seen, earlier, kind):
        return snapshot(conn)
    tables = frozenset(_concerned(before, seen, now, written))
    after = refreshed(conn, before, tables, objects=_concerns_objects(seen, now, written, tables, kind))
    return snapshot(conn) if _renamed_columns(before, after, tables) else after


def followed_outside(conn: Connection, before: Catalog, seen: Observation, now: Relations) -> Catalog:
    """Do what `followed` does after CONCURRENTLY and the like, which change nothing beyond what they lock."""
    return refreshed(conn, before, frozenset(_concerned(before, seen, now, frozenset())), objects=True)


def difference(before: Catalog, after: Catalog) -> tuple[Change, ...]:
    """Return `changes` of two catalogs of which one was made from the other: what they share is not compared."""
    if before is after:
        return ()
    shared = {id(table) for table in before.tables} & {id(table) for table in after.tables}
    if not shared:
        return changes(before, after)
    known = {(item.kind, item.name, item.oid, item.definition, item.columns) for item in before.objects}
    later = {(item.kind, item.name, item.oid, item.definition, item.columns) for item in after.objects}
    changed = known ^ later
    sequences = {name for kind, name, *_ in changed if kind == "sequence"}

    def reduced(catalog: Catalog) -> Catalog:
        return catalog.model_copy(
            update={
                "tables": tuple(t for t in catalog.tables if id(t) not in shared or _owns(t, sequences)),
                "objects": tuple(
                    item
                    for item in catalog.objects
                    if (item.kind, item.name, item.oid, item.definition, item.columns) in changed
                ),
            }
        )

    return changes(reduced(before), reduced(after))


def _owns(table: Table, sequences: set[str]) -> bool:
    return bool(sequences) and any(item.kind == "sequence" and item.name in sequences for item in table.dependents)


def _shows_everywhere(seen: Observation, earlier: Relations, kind: str) -> bool:
    written = seen.written or {}
    known = ((earlier[oid], item) for oid, item in seen.touched.items() if oid in earlier)
    if any(old.name != item.name and item.kind not in INDEXES for old, item in known):
        return True
    if written.get("pg_proc", (0, 0, 0))[1] and kind != "create_function":
        return True
    return bool(_EVERYWHERE & set(written)) or any(written.get(name, (0, 0, 0))[1] for name in ("pg_type", "pg_enum"))


def _concerned(before: Catalog, seen: Observation, now: Relations, written: frozenset[str]) -> Iterator[int]:
    """Yield the OIDs of the tables whose definition may be another one now; some may be gone."""
    named: set[str] = set()
    replaced = bool(written & {"pg_rewrite", "pg_proc"})
    strong = {oid for oid, mode in seen.locks.items() if LOCK_ORDER.index(mode) >= _STRONG}
    constrained = {oid for item in seen.constraints for oid in (item.table, item.referenced)}
    for oid in strong | set(seen.touched) | seen.columns_of | seen.depended_on | constrained:
        relation = now.get(oid)
        if relation is None:
            continue
        on = now.get(relation.table, relation)
        if on.kind in TABLES:
            yield on.oid
        elif on.kind == "S":
            named.add(f"{on.name.schema}.{on.name.name}")
        elif on.kind in VIEWS:
            # A table's entry holds the definitions of its views, with their options, indexes and triggers.
            replaced = True
    for table in before.tables:
        for item in table.dependents:
            if (replaced and item.kind in ("view", "materialized view", "function")) or (
                item.kind == "sequence" and item.name.replace('"', "") in named
            ):
                yield table.oid


def _concerns_objects(
    seen: Observation, now: Relations, written: frozenset[str], tables: frozenset[int], kind: str
) -> bool:
    if kind not in _ON_TABLES or not tables or not written <= _OF_TABLES:
        return True
    strong = {oid for oid, mode in seen.locks.items() if LOCK_ORDER.index(mode) >= _STRONG}
    found = (now[oid] for oid in strong | set(seen.touched) if oid in now)
    # The indexes of a materialized view are in its definition.
    return any(now.get(item.table, item).kind not in TABLES for item in found)


def _renamed_columns(before: Catalog, after: Catalog, tables: frozenset[int]) -> bool:
    """Whether a column has another name: foreign keys and views of other tables print it."""
    names = {table.oid: {c.attnum: c.name for c in table.columns} for table in before.tables if table.oid in tables}
    return any(
        names[table.oid].get(column.attnum, column.name) != column.name
        for table in after.tables
        if table.oid in names
        for column in table.columns
    )
