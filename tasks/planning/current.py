"""What the changed tables are now, as the plan tells it: from the catalog, sizes as the server estimates them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tasks.planning.catalog import Catalog, Table
from tasks.planning.names import TableName
from tasks.planning.plan import TableFacts
from tasks.planning.referring import finds_referring, search_of


def current_state(catalog: Catalog, tables: Sequence[TableName]) -> tuple[TableFacts, ...]:
    """Return what a reader of the plan needs to know of the tables that are there, with what is already weak."""
    return tuple(_facts(catalog, table) for name in tables if (table := catalog.table(name)) is not None)


def _facts(catalog: Catalog, table: Table) -> TableFacts:
    return TableFacts(
        name=table.name,
        rows=table.rows,
        bytes=table.bytes,
        toast_bytes=table.toast_bytes,
        columns=tuple(f"{column.name} {column.type}" for column in table.columns),
        constraints=tuple(f"{constraint.name}: {constraint.definition}" for constraint in table.constraints),
        indexes=tuple(f"{index.name}: {index.definition}" for index in table.indexes),
        dependents=tuple(f"{dependent.kind} {dependent.name}" for dependent in table.dependents),
        referenced_by=tuple(
            f"{other.name}.{', '.join(constraint.columns)}"
            for other in catalog.tables
            for constraint in other.constraints
            if constraint.references == table.name
        ),
        weaknesses=tuple(_weaknesses(table)),
    )


def _weaknesses(table: Table) -> Iterable[str]:
    if table.primary_key is None:
        yield "no primary key"
    searches = [search_of(index) for index in table.indexes]
    for constraint in table.constraints:
        if not constraint.validated:
            yield f"constraint {constraint.name} was never validated"
        if constraint.kind == "foreign_key" and not any(
            finds_referring(index, constraint.columns) for index in searches
        ):
            yield f"no index leads with the foreign key {constraint.name} ({', '.join(constraint.columns)})"
    for index in table.indexes:
        if not index.valid:
            yield f"index {index.name} is invalid"
