"""The meaning of a change: the difference between the catalogs of one database before and after the user's SQL.

Nothing is guessed from names: a table keeps its OID and a column its attribute number through every rename, while
drop + add gives new ones. Constraints and indexes, which ALTER COLUMN … TYPE re-makes under new OIDs, are matched by
OID first and by name then. Every field of the models is compared, so nothing that the catalogs hold escapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pydantic import BaseModel

from tasks.planning import definitions
from tasks.planning.catalog import Catalog, Column, Constraint, Dependent, Index, SchemaObject, Table
from tasks.planning.change import (
    Change,
    ColumnAdded,
    ColumnChanged,
    ColumnDropped,
    ConstraintAdded,
    ConstraintChanged,
    ConstraintDropped,
    DependentChanged,
    GrantsChanged,
    IndexAdded,
    IndexChanged,
    IndexDropped,
    ObjectChanged,
    Other,
    TableAdded,
    TableDropped,
    TableOptionChanged,
    TableRenamed,
    TriggerChanged,
)
from tasks.planning.names import TableName

__all__ = [
    "Change",
    "ColumnAdded",
    "ColumnChanged",
    "ColumnDropped",
    "ConstraintAdded",
    "ConstraintChanged",
    "ConstraintDropped",
    "DependentChanged",
    "GrantsChanged",
    "IndexAdded",
    "IndexChanged",
    "IndexDropped",
    "ObjectChanged",
    "Other",
    "TableAdded",
    "TableDropped",
    "TableOptionChanged",
    "TableRenamed",
    "TriggerChanged",
    "changes",
    "settled",
]

# Views and functions that depend on a table are objects of their own and reported once, there; what is generated is
# the column's own expression, and an owned sequence is an object too.
_REPORTED_ELSEWHERE = frozenset({"view", "materialized view", "function", "generated column", "sequence"})

# Compared one by one below. Every other field of Table, also one that is added later, is compared as an option.
_COMPARED_APART = frozenset(
    {
        "name", "oid", "columns", "constraints", "indexes", "triggers", "dependents", "grants", "options", "rows",
        "bytes", "toast_bytes", "attributes",
    }
)  # fmt: skip


def changes(before: Catalog, after: Catalog) -> tuple[Change, ...]:
    """Return every difference, tables first (by name before), then other objects; the same for the same input.

    Both catalogs must come from the same database: they are matched by OID.
    """
    context = _Context.of(before, after)
    found: list[Change] = []
    later = {table.oid: table for table in after.tables}
    known = {table.oid for table in before.tables}
    for table in sorted(before.tables, key=lambda item: item.name):
        other = later.get(table.oid)
        found.extend(_table(table, other, context) if other else [TableDropped(table=table.name, before=table)])
    added = sorted((table for table in after.tables if table.oid not in known), key=lambda item: item.name)
    found.extend(TableAdded(table=table.name, after=table) for table in added)
    found.extend(_objects(before, after, context))
    return tuple(found)


def settled(before: Catalog, after: Catalog) -> Catalog:
    """Return ``after`` with the OIDs of ``before`` where ALTER COLUMN … TYPE only made a constraint or index anew.

    From then on an OID says what it says for every other change: the same object, or another one.
    """
    context = _Context.of(before, after)
    known = {table.oid: table for table in before.tables}
    tables = []
    for table in after.tables:
        old = known.get(table.oid)
        if old is not None:
            table = table.model_copy(
                update={
                    "constraints": tuple(_constraint_settled(item, old, table, context) for item in table.constraints),
                    "indexes": tuple(_index_settled(item, old, table, context) for item in table.indexes),
                }
            )
        tables.append(table)
    return after.model_copy(update={"tables": tuple(tables)})


def _constraint_settled(item: Constraint, before: Table, after: Table, context: _Context) -> Constraint:
    kept = {other.oid for other in after.constraints}
    for old in before.constraints:
        if old.name == item.name and old.oid not in kept and _constraint_followed(old, item, before, context):
            return item.model_copy(update={"oid": old.oid})
    return item


def _index_settled(item: Index, before: Table, after: Table, context: _Context) -> Index:
    kept = {other.oid for other in after.indexes}
    for old in before.indexes:
        if old.name == item.name and old.oid not in kept and _index_followed(old, item, before, context):
            return item.model_copy(update={"oid": old.oid})
    return item


@dataclass(frozen=True)
class _Context:
    """What was renamed, so that a definition that only followed can be told from one that was changed."""

    tables: dict[tuple[str, str], tuple[str, str]]
    columns: dict[TableName, dict[str, str]]
    """Per table (name before): column name before → after, for the renamed ones."""
    retyped: frozenset[TableName]
    """Tables (names before) with a column of another type: PostgreSQL prints other casts then."""

    @classmethod
    def of(cls, before: Catalog, after: Catalog) -> _Context:
        later = {table.oid: table for table in after.tables}
        tables: dict[tuple[str, str], tuple[str, str]] = {}
        columns: dict[TableName, dict[str, str]] = {}
        for table in before.tables:
            other = later.get(table.oid)
            if other is None:
                continue
            if table.name != other.name:
                tables[(table.name.schema, table.name.name)] = (other.name.schema, other.name.name)
            names = {column.attnum: column.name for column in other.columns}
            columns[table.name] = {
                column.name: names[column.attnum]
                for column in table.columns
                if names.get(column.attnum, column.name) != column.name
            }
        pairs = ((table, later[table.oid]) for table in before.tables if table.oid in later)
        retyped = frozenset(table.name for table, other in pairs if _is_retyped(table, other))
        return cls(tables, columns, retyped)

    def follows(self, before: str, after: str, table: TableName, referenced: TableName | None = None) -> bool:
        """Whether the definition ``after`` is ``before`` with only names (and casts) that had to follow."""
        compared = definitions.shape if self.retyped & {table, referenced} else definitions.renamed
        followed = compared(
            before,
            self.columns.get(table, {}),
            referenced=self.columns.get(referenced, {}) if referenced else None,
            tables=self.tables,
        )
        return followed == compared(after, {})

    def follows_anywhere(self, before: str, after: str) -> bool:
        """As `follows` for a definition over several tables: any table's renames may have made the difference."""
        merged = {old: new for names in self.columns.values() for old, new in names.items()}
        compared = definitions.shape if self.retyped else definitions.renamed
        return compared(before, merged, tables=self.tables) == compared(after, {})


def _is_retyped(before: Table, after: Table) -> bool:
    """Whether a column has another type than before, be it the same column or another one of its name."""
    types: dict[int | str, str] = {column.attnum: column.type for column in before.columns}
    types.update((column.name, column.type) for column in before.columns)
    return any(
        types.get(key, column.type) != column.type for column in after.columns for key in (column.attnum, column.name)
    )


# ------------------------------------------------------------------------------------------------ tables


def _table(before: Table, after: Table, context: _Context) -> Iterator[Change]:
    if before.name != after.name:
        yield TableRenamed(table=before.name, after=after.name)
    yield from _columns(before, after, context)
    yield from _constraints(before, after, context)
    yield from _indexes(before, after, context)
    yield from _triggers(before, after, context)
    yield from _dependents(before, after, context)
    yield from _grants(before, after, context)
    yield from _options(before, after)


def _columns(before: Table, after: Table, context: _Context) -> Iterator[Change]:
    later = {column.attnum: column for column in after.columns}
    known = {column.attnum for column in before.columns}
    for column in before.columns:
        other = later.get(column.attnum)
        if other is None:
            yield ColumnDropped(table=before.name, before=column)
        elif other != column:
            yield ColumnChanged(
                table=before.name,
                before=column,
                after=other,
                consequence=_column_followed(column, other, before, context),
            )
    for column in after.columns:
        if column.attnum not in known:
            yield ColumnAdded(table=before.name, after=column)


def _column_followed(before: Column, after: Column, table: Table, context: _Context) -> bool:
    """Whether only the text of its default or generating expression differs, and only by names that followed."""
    if before.default is None or after.default is None or before.model_copy(update={"default": after.default}) != after:
        return False
    return context.follows(f"SELECT {before.default}", f"SELECT {after.default}", table.name)


def _constraints(before: Table, after: Table, context: _Context) -> Iterator[Change]:
    gone = {column.name for column in before.columns} - _kept(before, after)
    for old, new in _pairs(before.constraints, after.constraints, lambda item: item.oid, lambda item: item.name):
        if old is None and new is not None:
            yield ConstraintAdded(table=before.name, after=new, consequence=new.inherited)
        elif new is None and old is not None:
            fell = old.inherited or bool(gone & set(old.columns))
            yield ConstraintDropped(table=before.name, before=old, consequence=fell)
        elif old is not None and new is not None and not _same(old, new, "oid"):
            yield ConstraintChanged(
                table=before.name, before=old, after=new, consequence=_constraint_followed(old, new, before, context)
            )


def _constraint_followed(old: Constraint, new: Constraint, table: Table, context: _Context) -> bool:
    if not _same(old, new, "oid", "definition", "columns", "references", "referenced_columns"):
        return False
    head = "ALTER TABLE t ADD CONSTRAINT c "
    return context.follows(f"{head}{old.definition}", f"{head}{new.definition}", table.name, old.references)


def _indexes(before: Table, after: Table, context: _Context) -> Iterator[Change]:
    gone = {column.name for column in before.columns} - _kept(before, after)
    left = {constraint.name for constraint in after.constraints}
    for old, new in _pairs(before.indexes, after.indexes, lambda item: item.oid, lambda item: item.name):
        if old is None and new is not None:
            yield IndexAdded(table=before.name, after=new, consequence=new.constraint is not None)
        elif new is None and old is not None:
            fell = bool(gone & set(old.columns)) or (old.constraint is not None and old.constraint not in left)
            yield IndexDropped(table=before.name, before=old, consequence=fell)
        elif old is not None and new is not None and not _same(old, new, "oid", "bytes"):
            followed = _index_followed(old, new, before, context)
            yield IndexChanged(table=before.name, before=old, after=new, consequence=followed)


def _index_followed(old: Index, new: Index, table: Table, context: _Context) -> bool:
    # The index of a renamed constraint takes its name: that is reported with the constraint.
    named = ("name", "constraint") if old.constraint is not None and new.constraint is not None else ()
    return _same(old, new, "oid", "bytes", "definition", "columns", *named) and context.follows(
        old.definition, new.definition, table.name
    )


def _triggers(before: Table, after: Table, context: _Context) -> Iterator[Change]:
    for old, new in _pairs(before.triggers, after.triggers, lambda item: item.name):
        if old != new:
            followed = (
                old is not None
                and new is not None
                and _same(old, new, "definition")
                and context.follows(old.definition, new.definition, before.name)
            )
            yield TriggerChanged(table=before.name, before=old, after=new, consequence=followed)


def _dependents(before: Table, after: Table, context: _Context) -> Iterator[Change]:
    names = context.columns.get(before.name, {})
    own_before = [item for item in before.dependents if item.kind not in _REPORTED_ELSEWHERE]
    own_after = [item for item in after.dependents if item.kind not in _REPORTED_ELSEWHERE]
    for old, new in _pairs(own_before, own_after, lambda item: (item.kind, item.name)):
        if old == new:
            continue
        followed = (
            old is not None
            and new is not None
            and {names.get(column, column) for column in old.columns} == set(new.columns)
            and context.follows_anywhere(old.definition, new.definition)
        )
        yield DependentChanged(table=before.name, before=old, after=new, consequence=followed)


def _grants(before: Table, after: Table, context: _Context) -> Iterator[Change]:
    """A privilege follows its table and column through a rename; it falls with its column."""
    names = context.columns.get(before.name, {})
    followed = {definitions.renamed(grant, names, tables=context.tables): grant for grant in before.grants}
    present = {definitions.renamed(grant, {}): grant for grant in after.grants}
    added = tuple(present[grant] for grant in sorted(present.keys() - followed.keys()))
    removed = tuple(followed[grant] for grant in sorted(followed.keys() - present.keys()))
    if added or removed:
        yield GrantsChanged(table=before.name, added=added, removed=removed)


def _options(before: Table, after: Table) -> Iterator[Change]:
    for field in sorted(set(Table.model_fields) - _COMPARED_APART):
        old, new = getattr(before, field), getattr(after, field)
        if old != new:
            yield TableOptionChanged(table=before.name, option=field, before=_text(old), after=_text(new))
    old_options, new_options = _split_options(before), _split_options(after)
    for option in sorted(old_options.keys() | new_options.keys()):
        if old_options.get(option) != new_options.get(option):
            yield TableOptionChanged(
                table=before.name, option=option, before=old_options.get(option), after=new_options.get(option)
            )


def _split_options(table: Table) -> dict[str, str]:
    pairs = (option.partition("=") for option in table.options)
    return {name: value for name, _, value in pairs}


# ------------------------------------------------------------------------------------------------ other objects


def _objects(before: Catalog, after: Catalog, context: _Context) -> Iterator[Change]:
    """Objects are matched by name and then by OID: a view or function that is replaced keeps its name."""
    owned = _owned_sequences(before) | _owned_sequences(after)
    pairs = list(
        _pairs(before.objects, after.objects, lambda item: (item.kind, item.name), lambda item: (item.kind, item.oid))
    )
    reported: set[tuple[str, str]] = set()
    for old, new in pairs:
        if old is not None and new is not None and _same(old, new, "oid"):
            continue
        reported.update((item.kind, item.name) for item in (old, new) if item is not None)
        yield ObjectChanged(before=old, after=new, consequence=_object_followed(old, new, owned, context))
    yield from _unexplained(before, after, reported)


def _object_followed(
    old: SchemaObject | None, new: SchemaObject | None, owned: frozenset[str], context: _Context
) -> bool:
    item = old or new
    if item is None or item.kind == "sequence":
        return item is not None and item.name in owned
    if item.kind == "privileges":
        # The owner's entry comes, goes and is renamed with the object itself.
        return old is None or new is None or old.definition == new.definition
    if old is None or new is None or old.name != new.name:
        return False
    return not old.definition.startswith('{"') and context.follows_anywhere(old.definition, new.definition)


def _owned_sequences(catalog: Catalog) -> frozenset[str]:
    """Return the sequences of serial and identity columns: they come, go and change with their column."""
    return frozenset(item.name for table in catalog.tables for item in table.dependents if item.kind == "sequence")


def _unexplained(before: Catalog, after: Catalog, reported: set[tuple[str, str]]) -> Iterator[Change]:
    """The last net: a dependent of a table that changed although no object of its name was reported."""
    later = {table.oid: table for table in after.tables}
    for table in before.tables:
        other = later.get(table.oid)
        if other is None:
            continue
        for old, new in _pairs(table.dependents, other.dependents, lambda item: (item.kind, item.name)):
            item = old or new
            if item is None or item.kind not in ("view", "materialized view", "function"):
                continue
            if (item.kind, item.name) in reported or ("aggregate", item.name) in reported:
                continue
            if (item.kind == "function" and ("procedure", item.name) in reported) or _same_definition(old, new):
                continue
            yield Other(table=table.name, what=f"{item.kind} {item.name} depends on it in another way than before")


# ------------------------------------------------------------------------------------------------ matching


class _Named(Protocol):
    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=_Named)


def _pairs(
    before: Sequence[T], after: Sequence[T], *keys: Callable[[T], object]
) -> Iterator[tuple[T | None, T | None]]:
    """Yield (before, after) of items matched by the first key, the rest by the next; None where one is missing.

    In the order of names, what is only after last: OIDs differ from clone to clone and must not decide an order.
    """
    left, right = dict(enumerate(before)), dict(enumerate(after))
    matched: list[tuple[T | None, T | None]] = []
    for key in keys:
        by_key = {key(item): position for position, item in right.items()}
        for position, item in list(left.items()):
            if (other := by_key.pop(key(item), None)) is not None:
                matched.append((left.pop(position), right.pop(other)))
    matched.extend((item, None) for item in left.values())
    yield from sorted(matched, key=lambda pair: pair[0].name if pair[0] is not None else "")
    yield from ((None, item) for item in sorted(right.values(), key=lambda item: item.name))


def _same(before: BaseModel, after: BaseModel, *but: str) -> bool:
    """Whether all fields except those named are equal."""
    return all(
        getattr(before, field) == getattr(after, field) for field in type(before).model_fields if field not in but
    )


def _same_definition(old: Dependent | None, new: Dependent | None) -> bool:
    return old is not None and new is not None and old.definition == new.definition


def _kept(before: Table, after: Table) -> set[str]:
    """Return the names (before) of the columns that are still there."""
    left = {column.attnum for column in after.columns}
    return {column.name for column in before.columns if column.attnum in left}


def _text(value: object) -> str | None:
    match value:
        case None | ():
            return None
        case TableName():
            return str(value)
        case tuple():
            return ", ".join(str(item) for item in value)
        case _:
            return str(value)
