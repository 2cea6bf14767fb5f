"""What holds of columns that keep their name in a new column (`stages`), and what is refused of them by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from psycopg import sql

from tasks.planning.catalog import Catalog, Column, Constraint
from tasks.planning.errors import SpecError, Unsupported
from tasks.planning.names import TableName, display
from tasks.planning.retyping import means_the_same, old_version_can
from tasks.planning.strategies.expand_contract import injective
from tasks.planning.strategies.expand_contract.contribution import TableChange
from tasks.planning.strategies.expand_contract.mapping import Draft, Group
from tasks.planning.strategies.expand_contract.stages import Moved

_KEYS = frozenset({"primary_key", "unique", "foreign_key"})


def moved_columns(migration: str, found: Sequence[Draft]) -> Mapping[TableName, tuple[Moved, ...]]:
    """Return, by table, the columns that keep their name in a new column."""
    by_table: dict[TableName, tuple[Moved, ...]] = {}
    for draft in found:
        if draft.keeps_name:
            column = Moved.of(migration, draft.table, draft.new[0])
            by_table[draft.table] = (*by_table.get(draft.table, ()), column)
    return by_table


def is_strict_early(change: TableChange, column: str) -> bool:
    """Whether the new column can be NOT NULL before the switch: no write of the old column leaves it empty."""
    if column not in change.moved_new:
        return False
    group = change.group_of(column)
    return group.old.columns[0].not_null and _is_total(change, group)


def _is_total(change: TableChange, group: Group) -> bool:
    """Whether `up` gives a value that the new column takes for every value that the old one takes."""
    if "up" in group.raising:
        return False
    present = {constraint.oid for constraint in change.before.constraints}
    checks = [c for c in change.after.constraints if c.kind == "check" and set(c.columns) & set(group.new.names)]
    return not checks or (carries_checks(group) and all(check.oid in present for check in checks))


def carries_checks(group: Group) -> bool:
    """Whether a CHECK that follows the column to its new type asks the same of both."""
    return means_the_same(group.old.columns[0].type, group.new.columns[0].type)


def is_pinned(change: TableChange, column: Column) -> bool:
    """Whether the old column's NOT NULL hangs on something that only the swap takes away: the key, an identity."""
    key = change.before.primary_key
    return bool(column.identity) or (key is not None and column.name in key.columns)


def is_own(change: TableChange, constraint: Constraint) -> bool:
    """Whether a key of the new shape is built and swapped by `keys` and `swap`."""
    return change.moves(constraint.columns)


def require_keys(change: TableChange) -> None:
    """Refuse keys over moved columns whose conversion could make two values one, or fail."""
    keyed = [c for c in change.after.constraints if c.kind in ("primary_key", "unique", "foreign_key")]
    keyed_columns = [(c.name, c.columns) for c in keyed]
    keyed_columns += [(index.name, index.columns) for index in change.after.indexes if index.unique]
    types = {column.name: column.type for column in (*change.before.columns, *change.new)}
    for name, columns in keyed_columns:
        for column in sorted(set(columns) & change.moved_new):
            group = change.group_of(column)
            old, new = group.old.columns[0], group.new.columns[0]
            if not injective.is_injective(group.up[0].expression, types) or not injective.keeps_apart(old, new):
                raise _merging(change, name, column, group.up[0].expression)
            if group.down and not (
                injective.is_injective_or_raises(group.down[0].expression, types) and injective.keeps_apart(new, old)
            ):
                raise _merging(change, name, column, group.down[0].expression)
    for constraint in keyed:
        for column in sorted(set(constraint.columns) & change.moved_new):
            if constraint.kind != "unique" and not _is_total(change, change.group_of(column)):
                raise Unsupported(
                    f"the {constraint.kind.replace('_', ' ')} {constraint.name} of {change.name} over a column whose "
                    "conversion can fail, or is checked in a new way: the old application's statement would fail",
                    instead="Use a widening type, and bring a new CHECK in a migration of its own.",
                )
    if change.before.replica_identity.startswith("i ") and change.moved:
        raise Unsupported(
            f"changing the type of columns of {change.name}, whose replica identity is an index",
            instead="ALTER TABLE … REPLICA IDENTITY DEFAULT (or FULL) for the time of the migration.",
        )


def _merging(change: TableChange, name: str, column: str, expression: str) -> Unsupported:
    return Unsupported(
        f"the key {name} of {change.name} over {display(column)}, which is converted by {expression}: two values could "
        "become one under its type and collation, and the application's statement would fail",
        instead="Use a conversion that keeps different values different (a widening cast), or drop the constraint in "
        "a migration of its own first.",
    )


def require_alone(change: TableChange) -> None:
    """Refuse what hangs on a table's columns and would have to change its column at the swap.

    Sequences go along, and column privileges of the moved columns.
    """
    what = f"changing the type of columns of {change.name} under their names while"
    instead = "Drop it first and create it again after contract, or give the column another name in the same change."
    if change.own_statements:
        raise Unsupported(f"{what} its rows are changed by statements too", instead="Make two migrations of it.")
    for dependent in change.before.dependents:
        if dependent.kind != "sequence" and set(dependent.columns) & change.dropped_names:
            raise Unsupported(f"{what} the {dependent.kind} {dependent.name} depends on them", instead=instead)
    for trigger in change.before.triggers:
        if " WHEN (" in trigger.definition or re.search(r"UPDATE OF ", trigger.definition):
            raise Unsupported(
                f"{what} the trigger {trigger.name} names columns (in UPDATE OF or WHEN)", instead=instead
            )
    if change.dropped_names - change.moved_old and any("(" in grant.split(" ON ")[0] for grant in change.before.grants):
        raise Unsupported(
            f"{what} other columns are renamed or dropped too, on a table with privileges on columns",
            instead="Make two migrations of it.",
        )


def narrowed_keys(change: TableChange) -> tuple[str, ...]:
    """Return why the migration that goes back cannot be carried out beside the application: a sentence a column.

    It would make a key's column narrower, and a statement of the application with a greater value would fail.
    """
    found = []
    for column in change.moved:
        group = change.group_of(column.coming)
        (old,), (new,) = group.old.columns, group.new.columns
        known = [(c.name, c.columns) for c in change.before.constraints if c.kind in _KEYS]
        known += [(i.name, i.columns) for i in change.before.indexes if i.unique and i.constraint is None]
        keys = [name for name, columns in known if old.name in columns]
        if keys and not old_version_can(new.type, old.type):
            found.append(
                f"{change.name}.{display(column.name)} belongs to the key {keys[0]}, and {old.type} does not hold all "
                f"that {new.type} does"
            )
    return tuple(found)


def require_references(after: Catalog, moved: Mapping[TableName, Sequence[Moved]]) -> None:
    """Refuse a column that changes while columns that refer to it stay as they are: they could not take its values."""
    names = {table: {column.name for column in columns} for table, columns in moved.items()}
    for table in after.tables:
        for constraint in table.constraints:
            if constraint.kind != "foreign_key" or constraint.references not in names or constraint.inherited:
                continue
            pairs = zip(constraint.columns, constraint.referenced_columns, strict=True)
            left = [own for own, theirs in pairs if theirs in names[constraint.references]]
            stay = [name for name in left if name not in names.get(table.name, set())]
            if stay:
                raise _left_behind(after, table.name, constraint, stay)


def _left_behind(after: Catalog, table: TableName, constraint: Constraint, stay: Sequence[str]) -> SpecError:
    parent = after.table(constraint.references) if constraint.references else None
    target = dict(zip(constraint.columns, constraint.referenced_columns, strict=True))
    statements = []
    for name in stay:
        column = parent.column(target[name]) if parent is not None else None
        text = sql.SQL("ALTER TABLE {} ALTER COLUMN {} TYPE ").format(table.identifier, sql.Identifier(name))
        statements.append(f"{text.as_string()}{column.type if column is not None else '…'};")
    listed = ", ".join(f"{table}.{display(name)}" for name in stay)
    return SpecError(
        f"{constraint.references} changes the type of a column to which {listed} refers ({constraint.name}) and which "
        "keeps the old type: its first new value would not fit there.",
        remedy="Change the referring columns in the same migration; add to the change:\n  " + "\n  ".join(statements),
    )
