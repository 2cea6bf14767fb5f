"""Tables that a mapping cannot be carried out on in this version, each refused by name, with what to do instead."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.planning.catalog import Catalog, Table
from tasks.planning.errors import Unsupported
from tasks.planning.names import PENDING_COLUMN, TableName, display
from tasks.planning.strategies.expand_contract.contribution import TableChange
from tasks.planning.strategies.expand_contract.mapping import Draft, Group

MAX_COLUMNS = 1_600
"""MaxHeapAttributeNumber: what a table can have had in its life."""


def refuse_families(before: Catalog, tables: Sequence[TableName]) -> None:
    """Partitions and children have triggers, indexes and columns of their own, and statements reach them directly."""
    parents = {parent for table in before.tables for parent in table.inherits}
    for name in tables:
        table = before.table(name)
        if table is None:
            continue
        if table.kind == "p" or table.partition_of:
            whole = table.partition_of or name
            raise Unsupported(
                f"changing {name}, which is {'a partition' if table.partition_of else 'partitioned'}",
                instead=f"Run what needs no backfill on {whole} by itself (ADD COLUMN without a volatile default, "
                "CREATE INDEX on each partition CONCURRENTLY, then on the whole), or attach new partitions of the new "
                "shape. Partitioned tables come in a later version of Lockstep.",
            )
        if table.inherits or name in parents:
            kin = f"inherits from {table.inherits[0]}" if table.inherits else "has children by inheritance"
            raise Unsupported(
                f"changing {name}, which {kin}",
                instead="Take the tables apart first (ALTER TABLE … NO INHERIT …), and give each its own migration.",
            )


def refuse_rules(table: Table) -> None:
    """A rule rewrites a batch's UPDATE: it may do nothing instead, or something else beside, and nobody is told."""
    own = f" ON {table.name.identifier.as_string()}"
    for dependent in table.dependents:
        if dependent.kind == "rule" and dependent.name.endswith((own, f" ON {table.name}")):
            raise Unsupported(
                f"mapping columns of {table.name} while the rule {dependent.name} rewrites statements on it",
                instead="Make the rule a trigger, or drop it first and create it again after contract.",
            )


def refuse_domains_without_null(draft: Draft, before: Catalog, after: Catalog) -> None:
    """A value that cannot be NULL can be neither unfilled nor not yet computed."""
    for catalog, names in ((before, draft.old), (after, draft.new)):
        strict = {item.name for item in catalog.objects if item.kind == "domain" and "NOT NULL" in item.definition}
        table = catalog.table(draft.table)
        for column in table.columns if table is not None else ():
            if column.name in names and column.type in strict:
                raise Unsupported(
                    f"mapping the column {display(column.name)} of {draft.table}, whose domain {column.type} refuses "
                    "NULL",
                    instead="Put NOT NULL on the columns instead of the domain (ALTER DOMAIN … DROP NOT NULL).",
                )


def refuse_marker(table: Table, groups: Sequence[Group]) -> None:
    if groups and table.column(PENDING_COLUMN) is not None:
        raise Unsupported(
            f"mapping columns of {table.name}, which has a column {PENDING_COLUMN} already",
            instead=f"That is the name of Lockstep's own marker: rename or drop the column {PENDING_COLUMN} first.",
        )


def refuse_too_many_columns(change: TableChange) -> None:
    coming = len(change.new) + (1 if change.groups else 0)
    if coming and change.before.attributes + coming > MAX_COLUMNS:
        raise Unsupported(
            f"adding {coming} columns to {change.name}, which has had {change.before.attributes:,} of the "
            f"{MAX_COLUMNS:,} that PostgreSQL allows a table, dropped ones included",
            instead="Only a table made anew forgets its dropped columns: copy it (CREATE TABLE … LIKE) first.",
        )
