"""The catalog snapshot of one database: a handful of set-based queries, one moment, no lock that anyone waits for.

The statements are `sql/catalog_*.sql`. All of them run with an empty ``search_path``, so that every name in a
definition is printed in full and the same database always gives the same text.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import resources
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow, dict_row

from tasks.planning.catalog import Catalog, Column, Constraint, Dependent, Index, SchemaObject, Table, Trigger
from tasks.planning.errors import LockNotAcquired
from tasks.planning.names import TableName

Row = dict[str, Any]

OBJECT_QUERIES = ("catalog_objects", "catalog_privileges", "catalog_comments", "catalog_others")

# A definition is printed under ACCESS SHARE on its relation: behind a session that holds ACCESS EXCLUSIVE the
# snapshot gives up rather than wait. Ten thousand tables take about 20 s.
LOCK_TIMEOUT = "2s"
STATEMENT_TIMEOUT = "60s"


def snapshot(conn: psycopg.Connection[TupleRow]) -> Catalog:
    """Return everything that planning needs to know of the database.

    On an idle connection it opens (and ends) a read-only REPEATABLE READ transaction of its own; inside an open
    transaction it sees that transaction's uncommitted changes and leaves its settings as they were. Raises
    `LockNotAcquired` when a definition cannot be read because another session holds ACCESS EXCLUSIVE.
    """
    with _patiently(conn), _reading(conn):
        return _read(conn)


def refreshed(
    conn: psycopg.Connection[TupleRow], earlier: Catalog, tables: Collection[int], *, objects: bool
) -> Catalog:
    """Return an earlier snapshot of this database with these tables (OIDs) as they are now, dropped ones left out.

    ``objects``: whether everything else than tables is read again too. Costs what the tables cost, not the schema;
    that nothing else changed is the caller's knowledge.
    """
    with _patiently(conn), _reading(conn):
        now = _objects(conn) if objects else earlier.objects
        kept = [table for table in earlier.tables if table.oid not in tables]
        if tables:
            only = "{" + ",".join(str(oid) for oid in sorted(tables)) + "}"
            conn.execute("SELECT set_config('lockstep.only', %s, true)", (only,))
            kept.extend(_tables(conn, list(now)))
        ordered = tuple(sorted(kept, key=lambda table: (table.name.schema.encode(), table.name.name.encode())))
        return earlier.model_copy(update={"tables": ordered, "objects": now})


@contextmanager
def _patiently(conn: psycopg.Connection[TupleRow]) -> Iterator[None]:
    try:
        yield
    except psycopg.errors.LockNotAvailable as error:
        raise LockNotAcquired(
            f"The catalog could not be read within {LOCK_TIMEOUT}: another session holds an ACCESS EXCLUSIVE lock.",
            table="",
            blockers=_exclusive_holders(conn),
            remedy="Try again when that session has ended its transaction.",
        ) from error


@contextmanager
def _reading(conn: psycopg.Connection[TupleRow]) -> Iterator[None]:
    alone = conn.info.transaction_status == TransactionStatus.IDLE
    # Rolling back is what restores search_path and the timeouts inside somebody else's transaction.
    with conn.transaction(force_rollback=True):
        if alone:
            conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        conn.execute(
            "SELECT set_config('search_path', '', true), set_config('lock_timeout', %s, true),"
            " set_config('statement_timeout', %s, true), set_config('quote_all_identifiers', 'off', true),"
            # The estimates over catalogs are high enough to start the compiler: 2 s.
            " set_config('jit', 'off', true), set_config('lockstep.only', '', true)",
            (LOCK_TIMEOUT, STATEMENT_TIMEOUT),
        )
        yield


def _read(conn: psycopg.Connection[TupleRow]) -> Catalog:
    server = conn.execute("SELECT current_setting('server_version_num')::int, current_database()").fetchone()
    if server is None:
        raise AssertionError("SELECT without FROM returned no row")
    objects = _objects(conn)
    return Catalog(server_version=server[0], database=server[1], tables=_tables(conn, list(objects)), objects=objects)


def _objects(conn: psycopg.Connection[TupleRow]) -> tuple[SchemaObject, ...]:
    found = (SchemaObject.model_validate(row) for query in OBJECT_QUERIES for row in _rows(conn, query))
    return tuple(sorted(found, key=lambda item: (item.kind, item.name, item.oid)))


def _tables(conn: psycopg.Connection[TupleRow], objects: list[SchemaObject]) -> tuple[Table, ...]:
    columns = _by_table(_rows(conn, "catalog_columns"))
    constraints = _by_table(_rows(conn, "catalog_constraints"))
    indexes = _by_table(_rows(conn, "catalog_indexes"))
    triggers = _by_table(_rows(conn, "catalog_triggers"))
    dependents = _by_table(_rows(conn, "catalog_dependents"))
    views = _ViewGraph(_rows(conn, "catalog_view_edges"), objects)
    tables: list[Table] = []
    for row in _rows(conn, "catalog_tables"):
        oid = row["oid"]
        parents = tuple(TableName(*parent) for parent in row.pop("parents"))
        is_partition = row.pop("is_partition")
        schema = row.pop("schema")
        tables.append(
            Table.model_validate(
                {
                    **row,
                    "name": TableName(schema, row["name"]),
                    "partition_of": parents[0] if is_partition else None,
                    "inherits": () if is_partition else parents,
                    "columns": [Column.model_validate(column) for column in columns[oid]],
                    "constraints": [_constraint(constraint) for constraint in constraints[oid]],
                    "indexes": [Index.model_validate(index) for index in indexes[oid]],
                    "triggers": [Trigger.model_validate(trigger) for trigger in triggers[oid]],
                    "dependents": (*views.dependents(oid), *_dependents(dependents[oid])),
                }
            )
        )
    return tuple(tables)


def _constraint(row: Row) -> Constraint:
    references = row.pop("references")
    return Constraint.model_validate({**row, "references": TableName(*references) if references else None})


def _dependents(rows: list[Row]) -> list[Dependent]:
    found = [Dependent.model_validate({**row, "columns": _column_names(row["columns"])}) for row in rows]
    return sorted(found, key=lambda item: (item.kind, item.name, item.columns, item.definition))


class _ViewGraph:
    """Which views stand on which relations, so that a table's views are found through other views."""

    def __init__(self, edges: list[Row], objects: list[SchemaObject]) -> None:
        self.views = {item.oid: item for item in objects if item.kind in ("view", "materialized view")}
        self.readers: Mapping[int, list[Row]] = defaultdict(list)
        for edge in edges:
            self.readers[edge["relation"]].append(edge)

    def dependents(self, table: int) -> list[Dependent]:
        """Return the table's views, each after the views it stands on.

        ``columns`` of a view that reads the table only through another view are those which that one reads.
        """
        columns: dict[int, dict[str, None]] = {}
        depth: dict[int, int] = {}
        frontier: list[tuple[int, int, tuple[str, ...] | None]] = [(table, 0, None)]
        while frontier:
            relation, level, inherited = frontier.pop()
            for edge in self.readers.get(relation, ()):
                view = edge["view"]
                read = inherited if inherited is not None else _column_names(edge["columns"])
                known = columns.setdefault(view, {})
                if view in depth and depth[view] >= level + 1 and all(name in known for name in read):
                    continue
                known.update(dict.fromkeys(read))
                depth[view] = max(depth.get(view, 0), level + 1)
                frontier.append((view, level + 1, tuple(known)))
        ordered = sorted((view for view in columns if view in self.views), key=lambda v: (depth[v], self.views[v].name))
        return [
            Dependent.model_validate(
                {
                    "kind": self.views[view].kind,
                    "name": self.views[view].name,
                    "columns": tuple(columns[view]),
                    "definition": self.views[view].definition,
                }
            )
            for view in ordered
        ]


def _column_names(pairs: list[list[str]]) -> tuple[str, ...]:
    """Return the names of (padded attribute number, name) pairs, which the server sorted by number."""
    return tuple(name for _, name in pairs)


def _by_table(rows: list[Row]) -> Mapping[int, list[Row]]:
    grouped: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        grouped[row.pop("table_oid")].append(row)
    return grouped


def _rows(conn: psycopg.Connection[TupleRow], query: str) -> list[Row]:
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(_query(query)).fetchall()


@cache
def _query(name: str) -> bytes:
    return (resources.files("tasks.database") / "sql" / f"{name}.sql").read_bytes()


def _exclusive_holders(conn: psycopg.Connection[TupleRow]) -> tuple[str, ...]:
    """Describe the sessions that hold ACCESS EXCLUSIVE in this database; best effort, for an error message."""
    if conn.info.transaction_status != TransactionStatus.IDLE:
        return ()
    rows = conn.execute(_query("catalog_blockers")).fetchall()
    return tuple(str(row[0]) for row in rows)
